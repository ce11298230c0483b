"""Share one adapted encoder among all components of a process with the same names."""

from functools import lru_cache
from typing import Any

from ea_jax.errors import MissingDependency
from ea_jax.integrations.adapted_encoder import AdaptedEncoder, load_adapted_encoder


@lru_cache(8)
def shared_encoder(source: str, target: str, flavor: str | None = None, registry: str | None = None) -> AdaptedEncoder:
    """Load an adapted encoder once. Args and errors are those of `load_adapted_encoder`."""
    return load_adapted_encoder(source, target, flavor, registry)


def missing_base(package: str, extra: str) -> Any:
    """Replace the base class of a framework that is not installed: only creating an object raises an error."""

    class Missing:
        def __new__(cls, *_: Any, **__: Any) -> Any:
            raise MissingDependency(f"{package} is not installed: pip install 'ea_jax[{extra}]'.")

    return Missing
