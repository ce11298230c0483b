"""The names that people give to devices, as JAX knows them."""

from pathlib import Path

import jax

from ea_jax.errors import BadInput

BACKENDS = {"cuda": "gpu", "rocm": "gpu"}


def fast_dtype() -> str:
    """What products are fastest in with float32 sums: bfloat16 on accelerators and on CPUs with instructions for it."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    told = Path("/proc/cpuinfo")
    flags = told.read_text() if told.is_file() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def find_device(name: str | None) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm] (declared as a variable)
    """This process's first device of a JAX backend: cpu, gpu (or cuda) or tpu; the best one there is if None.

    Raises:
        BadInput: JAX has no such device here.
    """
    try:
        return jax.local_devices(backend=BACKENDS.get(name, name) if name else None)[0]
    except RuntimeError as error:
        here = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise BadInput(f"JAX has no device {name!r} here; it has {here}.") from error
