import pytest

from ea_jax.errors import EncoderNotFound
from ea_jax.integrations.adapted_encoder import load_adapted_encoder
from tests.integrations.toys import toy_adapted


@pytest.fixture(scope="session")
def toy(toy_root):
    return toy_adapted(toy_root)


@pytest.fixture(scope="session")
def real():
    """A bundled adapter with its encoder."""
    try:
        return load_adapted_encoder("minilm-plus", "oai-3-small")
    except EncoderNotFound as error:
        pytest.skip(str(error))
