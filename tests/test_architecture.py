"""The house: imports point down its floors, and the public names are the documented ones."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ea_jax

PACKAGE = Path(ea_jax.__file__).parent
FLOORS = [
    ["errors"],
    [
        "arrays",
        "bootstrap",
        "devices",
        "durable",
        "files",
        "junk",
        "places",
        "progress",
        "provenance",
        "records",
        "spec",
        "texts",
        "torch_zip",
    ],
    ["spaces"],
    [
        "batching",
        "digests",
        "fetching",
        "losses",
        "metrics",
        "ops",
        "packing",
        "parts",
        "registry",
        "search",
        "vectors",
    ],
    ["draws", "encoders", "indexes", "models", "neighbors", "provider", "public", "solve"],
    [
        "adapter",
        "checkpoint",
        "collect",
        "encoder",
        "heldout",
        "modules",
        "quality",
        "remotes",
        "ridge",
        "tables",
        "train",
    ],
    ["quality_store", "routes"],
    ["domain_statistics"],
    ["drift", "fitting", "seed", "thresholds"],
    ["entries", "evaluation", "hub"],
    ["folders", "importing"],
    ["composites"],
    ["loading"],
    ["batch", "facade", "judge", "publishing", "recipe"],
    ["ray", "recheck", "spark"],
    ["cli", "__init__"],
]
FLOORS[5] += ["tables", "train"]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(file: Path) -> str:
    """The module or subpackage directly under ea_jax that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Rooms that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ea_jax":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {a.name if a.name in FLOOR else "__init__" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ea_jax.")}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file):
    here = room(file)
    above = [other for other in imported(file) - {here} if FLOOR[other] >= FLOOR[here]]
    assert not above


def test_every_file_has_a_floor():
    assert {room(file) for file in FILES} == set(FLOOR)


def test_flax_modules_live_in_the_model_files_alone():
    users = {room(file) for file in FILES if "nn.compact" in file.read_text()}
    assert users == {"models", "encoders"}


def test_the_exported_names_are_the_documented_ones():
    readme = (PACKAGE.parent / "README.md").read_text()
    for name in ea_jax.__all__:
        assert getattr(ea_jax, name) is not None
        assert f"`{name}`" in readme or f"{name}(" in readme, f"README.md does not mention {name}"
    assert dir(ea_jax) == sorted(ea_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = ea_jax.lod


def test_exported_names_are_what_their_modules_define():
    for name, module in ea_jax._HOME.items():
        assert getattr(ea_jax, name) is getattr(importlib.import_module(f"ea_jax.{module}"), name)


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, ea_jax.cli, ea_jax.registry.lookup as r; r.entries(); print([m for m in sys.modules if m in %r])"
    )
    heavy = {"jax", "numpy", "flax", "orbax", "transformers", "tokenizers", "pyarrow", "huggingface_hub", "torch"}
    found = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
