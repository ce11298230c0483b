"""`ea-jax serve`: serve OpenAI's embeddings API."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ea_jax.cli.options import Flavor, PurposeName
from ea_jax.errors import BadInput, MissingDependency

if TYPE_CHECKING:
    from ea_jax.integrations.adapted_encoder import Names
    from ea_jax.integrations.server.routing import RoutingConfig
    from ea_jax.integrations.server.spending import Spending

logger = logging.getLogger(__name__)
KEY, PROVIDER_KEY = "EA_JAX_API_KEY", "OPENAI_API_KEY"
PROVIDERS = {"openai": "https://api.openai.com/v1"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    source: Annotated[str | None, typer.Option(help="Model that embeds the texts, by id or alias.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Model whose space the embeddings are in; may be repeated.")
    ] = None,
    flavor: Flavor = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Another adapter, by its name in `ea-jax list`; may be repeated.")
    ] = None,
    purpose: Annotated[PurposeName, typer.Option(help="Purpose of model names without @query or @store.")] = (
        PurposeName.query
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[str | None, typer.Option(help=f"Key that clients must send; ${KEY} by default.")] = None,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Send texts of lower confidence to --fallback.")
    ] = None,
    fallback: Annotated[
        str | None, typer.Option(help=f"openai, or the base URL of a compatible endpoint; its key is ${PROVIDER_KEY}.")
    ] = None,
    fallback_model: Annotated[str | None, typer.Option(help="Name of the target model at --fallback.")] = None,
    fallback_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which local vectors are served instead.")
    ] = 10.0,
    price: Annotated[
        float | None, typer.Option(min=0, help="USD per million tokens at --fallback; known for OpenAI's models.")
    ] = None,
    spend_limit: Annotated[float, typer.Option(min=0, help="USD per month for --fallback.")] = 5.0,
    device: Annotated[str | None, typer.Option(help="cpu, gpu or tpu; the best one by default.")] = None,
) -> None:
    """Serve OpenAI's embeddings API with a local model.

    To query an index of the target model, set the base URL of the application to http://127.0.0.1:8000/v1.

    Example: ea-jax serve --source minilm-plus --target oai-3-small
    """
    if (fallback is None) != (min_confidence is None):
        raise typer.BadParameter("--fallback and --min-confidence go together.")
    if bool(source) != bool(target):
        raise typer.BadParameter("--source and --target go together.")
    if not target and not adapter:
        raise typer.BadParameter("give --source and --target, or --adapter.")
    key = api_key or os.environ.get(KEY) or None
    if host not in LOOPBACK and key is None:
        logger.warning(f"Every machine that reaches {host} can use this server. Set a key with --api-key.")
    missing = [name for name in ("starlette", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise MissingDependency(f"{missing[0]} is not installed: pip install 'ea_jax[serve]'.")
    from ea_jax.cli.runtime import start_jax

    start_jax(device)
    from ea_jax.integrations.adapted_encoder import Names
    from ea_jax.integrations.server.app import ServerConfig
    from ea_jax.integrations.server.run import Address, load_catalog
    from ea_jax.integrations.server.run import serve as run_server
    from ea_jax.registry.lookup import find_entry_by_name

    adapters = [Names(source or "", name, flavor) for name in target or []]
    for entry in map(find_entry_by_name, adapter or []):
        adapters.append(Names(entry.source, entry.target, entry.flavor, str(entry.path.parent)))
    routing = spending = None
    if fallback is not None and min_confidence is not None:
        routing, spending = _configure_routing(
            adapters, min_confidence, fallback, fallback_model, fallback_timeout, price, spend_limit
        )
    config = ServerConfig(key, routing=routing, spending=spending)
    run_server(lambda: load_catalog(adapters, purpose.value), config, Address(host, port))


COMMANDS = {serve: "serve"}


def _configure_routing(
    adapters: "list[Names]",
    min_confidence: float,
    fallback: str,
    model: str | None,
    timeout: float,
    price: float | None,
    limit: float,
) -> "tuple[RoutingConfig, Spending]":
    """Which texts are sent to which provider, and the monthly spend limit.

    Raises:
        BadInput: The provider's key is not set, or the price of a model is not known.
    """
    from platformdirs import user_data_dir

    from ea_jax.integrations.server.routing import RoutingConfig
    from ea_jax.integrations.server.spending import PRICES, Spending
    from ea_jax.registry.spaces import find_space

    base_url = PROVIDERS.get(fallback, fallback)
    if not base_url.startswith(("http://", "https://")):
        raise typer.BadParameter("--fallback is openai or an http address such as http://localhost:8080/v1.")
    key = os.environ.get(PROVIDER_KEY, "").strip()
    if not key:
        raise BadInput(f"{PROVIDER_KEY} is not set. If the provider needs no key, set it to any text.")
    if price is None:
        names = {model or find_space(names.target, names.registry).id.rpartition("/")[2] for names in adapters}
        unknown = sorted(names - PRICES.keys())
        if unknown:
            raise BadInput(f"The price of {', '.join(unknown)} is not known. Set --price; 0 for a server of your own.")
        price = max(PRICES[name] for name in names)
    spending = Spending(Path(user_data_dir("ea_jax")) / "spending.json", limit)
    logger.info(
        f"Texts of a confidence below {min_confidence:g} are sent to {base_url}; "
        f"{spending.spent():.2f} of {limit:.2f} USD are spent this month."
    )
    return RoutingConfig(min_confidence, base_url, key, model, price, timeout), spending
