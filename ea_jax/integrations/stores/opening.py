"""Open a store by its URL. The engine's client is imported on demand."""

from importlib import import_module
from typing import Any

from ea_jax.errors import MissingDependency
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
        url: Store URL; `urls.py` describes the syntax.
        create: Layout of the collection, table, column or file to create if it does not exist. If None, a missing one
            is an error.

    Raises:
        UnknownName: No engine, collection or table has this name.
        BadInput: The URL or one of its fields is wrong.
        Conflict: The store exists, with another width than `create`.
        MissingDependency: The engine's client is not installed.
        StoreUnavailable: The store cannot be reached, is locked or denies access.
    """
    url = parse_store_url(url) if isinstance(url, str) else url
    return client_module(url.engine).open_store(url, create)


def client_module(engine: str) -> Any:
    """Import the module of an engine.

    Raises:
        MissingDependency: Its client is not installed.
    """
    module = _MODULES[engine]
    try:
        return import_module(f"ea_jax.integrations.stores.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ea_jax"):
            raise
        extra = module.replace("_", "-")
        raise MissingDependency(
            f"{engine} stores need the package {error.name}, which is not installed: pip install 'ea_jax[{extra}]'."
        ) from error
