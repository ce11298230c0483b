"""Configure JAX for the command line: the device, and the cache of compiled programs."""

import logging
import os


def start_jax(device: str | None = None) -> None:
    """Import and configure JAX. Compiled programs are kept on disk.

    Args:
        device: `cpu`, `gpu` or `tpu`; the best available one if None.

    Raises:
        BadInput: JAX has no such device.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    from ea_jax.devices import find_device, keep_compiled_programs

    keep_compiled_programs()
    jax.config.update("jax_default_device", find_device(device))
