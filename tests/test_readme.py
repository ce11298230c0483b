"""Every README runs: its Python blocks in order, and each console command, with the output it shows."""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import readme
from ea_jax.errors import MissingDependency
from tests.conftest import unit_rows

ROOT = Path(__file__).parent.parent
FRONT_PAGE = (ROOT / "README.md").read_text()
FOLDERS = [ROOT / name for name in ("benchmarks", "ea_jax", "registry")]
DOCS = [ROOT / "README.md", *sorted(file for folder in FOLDERS for file in folder.glob("**/README.md"))]
ELSEWHERE = {ROOT / "ea_jax" / "integrations" / "stores" / "README.md"}  # run on each engine by the tests of stores
SERVER = "http://127.0.0.1:8000"  # the address in the README of `ea-jax serve`
NOT_IN_TEST_EXTRA = ("langchain", "llama-index", "haystack", "mteb")
BLOCK = re.compile(r"```([\w ]+)\n(.*?)```", re.S)


def blocks(file: Path) -> list[tuple[str, str]]:
    """Kind and text of each code block."""
    return BLOCK.findall(file.read_text())


def with_python(file: Path) -> bool:
    return file not in ELSEWHERE and any(kind == "python" for kind, _ in blocks(file))


def commands() -> list[tuple[str, str]]:
    """Each command of a console block, and the output under it."""
    console = "".join(text for file in DOCS for kind, text in blocks(file) if kind == "console")
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.M)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Run the server of `ea-jax serve --source minilm-plus --target oai-3-small`. Yields its address."""
    from ea_jax.integrations.adapted_encoder import Names
    from ea_jax.integrations.server.run import load_catalog
    from tests.integrations.server.conftest import running

    with running(lambda: load_catalog([Names("minilm-plus", "oai-3-small")])) as address:
        yield address


def matches(pattern: str, output: str) -> bool:
    """Whether an output is the one shown, where `...` stands for anything."""
    return bool(re.fullmatch("(?:.|\n)*?".join(map(re.escape, pattern.split("..."))), output))


@pytest.mark.slow
@pytest.mark.parametrize("file", [*filter(with_python, DOCS)], ids=lambda file: str(file.relative_to(ROOT)))
def test_the_python_blocks_run_in_order(minilm, file):
    names = {"texts": [f"note {i} of document {i % 20}" for i in range(200)]}
    names["vectors"] = unit_rows(np.random.default_rng(0), 200, 1536)
    output, missing = "", []
    with contextlib.ExitStack() as stack:
        for kind, text in blocks(file):
            if kind == "python":
                if SERVER in text:
                    text = text.replace(SERVER, stack.enter_context(served()))
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    try:
                        exec(compile(text, str(file), "exec"), names)
                    except (ModuleNotFoundError, MissingDependency) as error:
                        if not any(package in str(error) for package in NOT_IN_TEST_EXTRA):
                            raise
                        missing.append(str(error))
                if "client" in names:
                    names.pop("client").close()
                output = printed.getvalue()
            elif kind == "output":
                assert matches(text, output), output
    if file == ROOT / "README.md":
        assert names["y"].shape == names["q"].shape == names["translated_embs"].shape == (1, 1536)
        assert names["fitted"].report["pairs"] == 200
        assert 0 <= names["after"] <= 1
    if missing:
        pytest.skip(f"the other blocks ran; {'; '.join(missing)}")


@pytest.mark.parametrize(("command", "output"), commands(), ids=[command for command, _ in commands()])
def test_console_blocks_show_what_the_commands_print(minilm, command, output):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "80"}
    run = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True)
    assert matches(output, run.stdout), run.stdout
    assert run.stderr == ""


@pytest.mark.parametrize("block", readme.TABLES)
def test_tables_show_the_measured_figures(block):
    file = ROOT / "README.md" if block == "own index" else ROOT / "benchmarks" / "README.md"
    assert f"<!-- {block} -->\n{readme.table_of(block)}\n<!-- end -->" in file.read_text()


def test_the_front_page_has_at_most_200_lines():
    assert len(FRONT_PAGE.splitlines()) <= 200


@pytest.mark.parametrize("file", [*DOCS, ROOT / "CONTRIBUTING.md"], ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file):
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", file.read_text()):
        target = (file.parent / path) if path else file
        assert target.exists(), path
        headings = [
            re.sub(r"[^\w -]", "", h).lower().replace(" ", "-")
            for h in re.findall(r"^#+ (.*)", target.read_text(), re.M)
        ]
        assert not anchor or anchor in headings, anchor


def test_the_make_targets_that_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)|^make (\w+)", FRONT_PAGE, re.M)):
        assert re.search(rf"^{max(target)}:", makefile, re.M), target
