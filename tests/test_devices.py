import os
import subprocess
import sys
from pathlib import Path

import pytest

from ea_jax import devices

INTEL = "vendor_id : GenuineIntel\nflags : fma avx512f avx512_bf16\n"
AMD = "vendor_id : AuthenticAMD\nflags : fma avx512f avx512_bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [(INTEL, "float32"), (INTEL + "amx_bf16", "bfloat16"), (AMD, "bfloat16"), ("flags : fma", "float32")],
)
def test_bfloat16_is_chosen_where_it_is_faster(monkeypatch, tmp_path, cpuinfo, dtype):
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    devices.CPUINFO.write_text(cpuinfo)
    assert devices.fast_dtype() == dtype


CODE = """
import jax, jax.numpy as jnp
jax.jit(lambda x: x + 1)(jnp.ones(3))
from ea_jax import load
adapt = load("minilm", "wordllama")
adapt(adapt.params, jnp.ones((1, 384)))
"""


def run(home: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name} | variables
    environment["XDG_CACHE_HOME"] = str(home)
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True)
    command = [sys.executable, "-c", "from ea_jax.cli import main; main()", "cache"]
    shown = subprocess.run([*command, "--clear"], env=environment, check=True, capture_output=True, text=True).stdout
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert again.strip().endswith(" 0 programs, 0.0 MB")
    return shown


def test_the_library_keeps_compiled_programs(tmp_path):
    shown = run(tmp_path)
    assert shown.startswith(str(tmp_path / "ea_jax" / "jax"))
    assert " 0 programs" not in shown


def test_settings_keep_compiled_programs_elsewhere_or_nowhere(tmp_path):
    assert " 0 programs" in run(tmp_path, EA_JAX_COMPILATION_CACHE="off")
    shown = run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert shown.startswith(str(tmp_path / "own"))
    assert not (tmp_path / "ea_jax").exists()
