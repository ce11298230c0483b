"""The layout: imports point down the list in CONTRIBUTING.md, and the public names are the documented ones."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ea_jax

PACKAGE = Path(ea_jax.__file__).parent
LAYOUT = (PACKAGE.parent / "CONTRIBUTING.md").read_text().split("## Layout")[1].split("```")[1]
ORDER = [re.split(r"[/.]", line)[0] for line in LAYOUT.splitlines() if line]
LEVEL = {package: len(ORDER) - line for line, package in enumerate(ORDER)} | {"__init__": len(ORDER) + 1}
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT_MODULES = {"__init__", "devices", "embeddings", "errors", "loading", "progress", "typing"}


def package(file: Path) -> str:
    """The package, or module at the root, that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(file: Path) -> str:
    return ".".join(("ea_jax", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported(file: Path) -> set[str]:
    """Modules of ea_jax that a file imports anywhere, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ea_jax":
            inside = [f"{node.module}.{name.name}" for name in node.names]
            modules |= {name if name in MODULES else node.module for name in inside}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names if name.name.startswith("ea_jax")}
    return modules


MODULES = {module(file): file for file in FILES}


@pytest.mark.parametrize("name", sorted({package(file) for file in FILES}))
def test_imports_point_down(name):
    above = {
        f"{module(file)} imports {other}"
        for file in FILES
        if package(file) == name
        for other in imported(file) - {"ea_jax"}
        if other.split(".")[1] != name and LEVEL[other.split(".")[1]] >= LEVEL[name]
    }
    assert not above


def test_no_modules_import_each_other_in_a_cycle():
    graph = {name: imported(file) & MODULES.keys() - {name} for name, file in MODULES.items() if name != "ea_jax"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_every_package_is_in_the_layout():
    assert {package(file) for file in FILES} == set(LEVEL)
    assert {file.stem for file in PACKAGE.glob("*.py")} == ROOT_MODULES


def test_flax_modules_live_in_the_model_files_alone():
    users = {str(file.relative_to(PACKAGE).parent) for file in FILES if "nn.compact" in file.read_text()}
    assert users == {"adapters", "encoders/architectures"}


def test_the_exported_names_are_the_documented_ones():
    files = [PACKAGE.parent / "README.md", *PACKAGE.rglob("README.md")]
    docs = "".join(file.read_text() for file in files)
    for name in ea_jax.__all__:
        assert getattr(ea_jax, name) is not None
        assert f"`{name}`" in docs or f"{name}(" in docs, f"no README mentions {name}"
    assert dir(ea_jax) == sorted(ea_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = ea_jax.lod


def test_exported_names_are_what_their_modules_define():
    for name, module in ea_jax._HOME.items():
        assert getattr(ea_jax, name) is getattr(importlib.import_module(f"ea_jax.{module}"), name)


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, ea_jax.cli; from ea_jax.registry.lookup import list_entries; list_entries(); "
        "print([m for m in sys.modules if m in %r])"
    )
    heavy = {"jax", "numpy", "flax", "orbax", "transformers", "tokenizers", "pyarrow", "huggingface_hub", "torch"}
    found = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
