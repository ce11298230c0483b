"""What a benchmark ran on, for its JSON: a figure without its machine means nothing."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "flax", "numpy", "ea_jax")


def describe() -> dict[str, Any]:
    """Processor, cores, and the versions of Python and of the packages that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def results_file(script: str) -> Path:
    """Where a benchmark's figures are: `results/`, by the name of its module, or of its folder for a `__main__`."""
    path = Path(script)
    return RESULTS / f"{path.parent.name if path.stem == '__main__' else path.stem}.json"


def write_json(script: str, figures: dict[str, Any]) -> None:
    """Write the figures of a benchmark, with the machine."""
    content = {"machine": describe(), **figures}
    results_file(script).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
