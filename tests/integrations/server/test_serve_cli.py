"""`ea-jax serve`: errors before the start, and the configuration of the server."""

import pytest

from ea_jax.errors import BadInput
from ea_jax.integrations.server.run import Address, listen

PAIR = ("--source", "minilm-plus", "--target", "oai-3-small")
FALLBACK = ("--min-confidence", "0.5", "--fallback", "openai")


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Arguments of the calls that would run the server."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_: str(tmp_path))
    monkeypatch.delenv("EA_JAX_API_KEY", raising=False)
    calls = []
    monkeypatch.setattr("ea_jax.integrations.server.run.serve", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --source and --target"),
        (("--source", "minilm-plus"), "--source and --target go together"),
        ((*PAIR, "--fallback", "openai"), "--fallback and --min-confidence go together"),
        ((*PAIR, "--min-confidence", "0.5"), "--fallback and --min-confidence go together"),
        ((*PAIR, "--min-confidence", "0.5", "--fallback", "ftp://a"), "http address"),
        ((*PAIR, *FALLBACK), "OPENAI_API_KEY is not set"),
        (("--source", "minilm", "--target", "nomic", *FALLBACK), "is not known. Set --price"),
        (("--adapter", "nonesuch"), "nonesuch"),
    ],
)
def test_a_missing_option_is_named(ea, served, monkeypatch, arguments, message):
    key = "" if message == "OPENAI_API_KEY is not set" else "secret"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    code, _, err = ea("serve", *arguments)
    assert code != 0
    assert message in " ".join(err.replace("│", " ").split())
    assert not served


def test_the_default_is_loopback_without_a_provider(ea, served):
    assert ea("serve", *PAIR)[0] == 0
    ((_, config, address),) = served
    assert address == ("127.0.0.1", 8000)
    assert (config.api_key, config.routing, config.spending) == (None, None, None)


def test_a_provider_has_a_price_and_a_limit(ea, served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    code, _, err = ea("serve", *PAIR, *FALLBACK, "--api-key", "mine", "--spend-limit", "3")
    assert code == 0
    ((_, config, _),) = served
    assert (config.api_key, config.routing.price, config.spending.limit) == ("mine", 0.02, 3)
    assert config.routing.base_url == "https://api.openai.com/v1"
    assert "secret" not in err + repr(config)


def test_an_open_address_without_a_key_is_a_warning(ea, served):
    code, _, err = ea("serve", *PAIR, "--host", "0.0.0.0")
    assert code == 0
    assert "Set a key with --api-key" in err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_port_in_use_is_refused_before_loading(ea, monkeypatch, host):
    monkeypatch.setattr("ea_jax.integrations.server.run.load_catalog", None)
    try:
        other = listen(Address(host, 0))
    except BadInput:
        pytest.skip(f"this machine has no {host}")
    with other:
        code, _, err = ea("serve", *PAIR, "--host", host, "--port", str(other.getsockname()[1]))
    assert code == 1
    assert "already in use. Choose another" in " ".join(err.split())


def test_an_unknown_host_is_refused(ea):
    code, _, err = ea("serve", *PAIR, "--host", "nonesuch.invalid", "--api-key", "a")
    assert code == 1
    assert "cannot listen on nonesuch.invalid" in " ".join(err.split())
