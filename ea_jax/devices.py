"""Find devices by name, and the fastest dtype of products."""

from pathlib import Path

import jax

from ea_jax.errors import BadInput

BACKENDS = {"cuda": "gpu", "rocm": "gpu"}


def fast_dtype() -> str:
    """The fastest dtype of products with float32 sums: bfloat16 on accelerators and on CPUs that support it."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def find_device(name: str | None) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm] (declared as a variable)
    """Find the first device of a backend: cpu, gpu (or cuda) or tpu; if None, of the default backend.

    Raises:
        BadInput: JAX has no such device on this machine.
    """
    try:
        return jax.local_devices(backend=BACKENDS.get(name, name) if name else None)[0]
    except RuntimeError as error:
        available = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise BadInput(f"JAX has no device {name!r} here; it has {available}.") from error
