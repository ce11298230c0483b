"""Configure JAX for the command line: the device, and the cache of compiled programs."""

import logging
import os
from pathlib import Path


def start_jax(device: str | None = None) -> None:
    """Import and configure JAX. Compiled programs are cached in the user's cache folder, unless JAX has another one.

    Args:
        device: `cpu`, `gpu` or `tpu`; the best available one if None.

    Raises:
        BadInput: JAX has no such device.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax
    import platformdirs

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(platformdirs.user_cache_dir("ea_jax")) / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from ea_jax.devices import find_device

    jax.config.update("jax_default_device", find_device(device))
