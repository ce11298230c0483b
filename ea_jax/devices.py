"""Find devices by name and the fastest dtype of products, and keep compiled programs on disk."""

import os
from functools import cache
from pathlib import Path

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from ea_jax.errors import BadInput

BACKENDS = {"cuda": "gpu", "rocm": "gpu"}
CPUINFO = Path("/proc/cpuinfo")
CACHE_SWITCH = "EA_JAX_COMPILATION_CACHE"  # environment variable: `off` keeps no programs


def fast_dtype() -> str:
    """The fastest dtype of products with float32 sums: bfloat16 on accelerators and on CPUs that multiply it faster.

    Intel's AVX512-BF16 without AMX is not among them: its products take twice as long as those of float32.
    """
    if jax.default_backend() != "cpu":
        return "bfloat16"
    facts = CPUINFO.read_text() if CPUINFO.is_file() else ""
    fast = "amx_bf16" in facts or ("avx512_bf16" in facts and "AuthenticAMD" in facts)
    return "bfloat16" if fast else "float32"


def compilation_cache_folder() -> Path:
    """Folder of compiled programs: that of JAX's own settings, or one in the user's cache folder."""
    return Path(_jax_cache() or Path(platformdirs.user_cache_dir("ea_jax")) / "jax")


def _jax_cache() -> str | None:
    return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue] (declared at run time)


@cache
def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that the next process reads them instead of compiling anew.

    Does nothing if JAX has a compilation cache already (`JAX_COMPILATION_CACHE_DIR`), or if the environment variable
    `EA_JAX_COMPILATION_CACHE` is `off`.
    """
    if _jax_cache() or os.environ.get(CACHE_SWITCH) == "off":
        return
    jax.config.update("jax_compilation_cache_dir", str(compilation_cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # most programs compile in less than the default
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether there is a cache


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
