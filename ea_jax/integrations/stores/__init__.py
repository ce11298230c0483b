"""Vector stores as inputs and outputs: open one by its URL, read and write Arrow batches, publish and undo.

with open_store("qdrant:http://localhost:6333#docs") as store:
    for rows, cursor in store.read(("id", "text", "vector"), batch_rows=1000):
        ...
"""

from ea_jax.integrations.stores.opening import open_store
from ea_jax.integrations.stores.protocol import Chunk, Description, Layout, Published, Store
from ea_jax.integrations.stores.urls import StoreUrl, is_store_url, parse_store_url

__all__ = ["Chunk", "Description", "Layout", "Published", "Store", "StoreUrl"]
__all__ += ["is_store_url", "open_store", "parse_store_url"]
