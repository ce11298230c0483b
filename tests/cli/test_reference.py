"""The reference of the commands is what `--help` prints."""

import subprocess
import sys
from pathlib import Path

import ea_jax


def test_the_reference_is_generated():
    made = subprocess.run([sys.executable, "-m", "ea_jax.cli.reference"], capture_output=True, text=True, check=True)
    file = Path(ea_jax.__file__).parent / "cli" / "README.md"
    assert made.stdout == file.read_text(), "run: make docs"
