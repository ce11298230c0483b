"""From a store URL to an open store. The engine's client is imported only here and only then."""

from importlib import import_module
from typing import Any

from ea_jax.errors import BadInput
from ea_jax.integrations.stores.protocol import Layout, Store
from ea_jax.integrations.stores.urls import StoreUrl, parse_store_url

_MODULES = {
    "qdrant": "qdrant",
    "chroma": "chroma",
    "lancedb": "lancedb",
    "postgresql": "pgvector",
    "faiss": "faiss",
    "sqlite-vec": "sqlite_vec",
    "milvus": "milvus",
}


def open_store(url: str | StoreUrl, create: Layout | None = None) -> Store:
    """Open a store.

    Args:
        url: Which; `urls.py` says how it is written.
        create: How to make the collection, table, column or file if it is not there. Without it, it has to be there.

    Raises:
        UnknownName: No engine, collection or table of that name.
        BadInput: The URL or one of its fields is wrong, the client is not installed, or what is there has another
            width than `create` says.
        StoreUnavailable: The store cannot be reached, is locked or refuses.
    """
    url = parse_store_url(url) if isinstance(url, str) else url
    return client_module(url.engine).open_store(url, create)


def client_module(engine: str) -> Any:
    """The module of an engine.

    Raises:
        BadInput: Its client is not installed.
    """
    module = _MODULES[engine]
    try:
        return import_module(f"ea_jax.integrations.stores.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ea_jax"):
            raise
        extra = module.replace("_", "-")
        raise BadInput(
            f"{engine} stores need the package {error.name}, which is not installed: pip install 'ea_jax[{extra}]'."
        ) from error
