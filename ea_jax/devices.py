"""The names that people give to devices, as JAX knows them."""

import jax

from ea_jax.errors import BadInput

BACKENDS = {"cuda": "gpu", "rocm": "gpu"}


def find_device(name: str | None) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm] (declared as a variable)
    """The first device of a JAX backend: cpu, gpu (or cuda) or tpu; the best one there is if None.

    Raises:
        BadInput: JAX has no such device here.
    """
    try:
        return jax.devices(BACKENDS.get(name, name) if name else None)[0]
    except RuntimeError as error:
        here = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise BadInput(f"JAX has no device {name!r} here; it has {here}.") from error
