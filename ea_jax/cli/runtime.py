"""JAX as the command line wants it: the device asked for, and compiled programs kept between runs."""

import logging
import os
from pathlib import Path


def start_jax(device: str | None = None) -> None:
    """Import and configure JAX. Compiled programs are kept in the user's cache folder, unless JAX is told otherwise.

    Raises:
        BadInput: JAX has no such device here.
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
