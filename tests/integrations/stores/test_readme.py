"""The README's code runs on each engine, with the URLs of its section."""

import re
from pathlib import Path

import ea_jax.integrations.stores as stores
from ea_jax.integrations.stores import open_store
from tests.integrations.stores.conftest import WIDTH, make_rows, make_store

README = Path(stores.__file__).with_name("README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
HEADINGS = {
    "qdrant": "Qdrant",
    "chroma": "Chroma",
    "lancedb": "LanceDB",
    "postgresql": "PostgreSQL with pgvector",
    "faiss": "FAISS",
    "sqlite-vec": "sqlite-vec",
    "milvus": "Milvus",
}


def test_the_readme_runs_on_every_engine(engine, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    section = README.split(f"## {HEADINGS[engine.name]}\n")[1]
    names: dict = {"function": lambda x: x[:, ::-1][:, :8]}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    if engine.name == "postgresql":
        names |= {"url": engine.url("docs"), "reader": engine.reader}
    with make_store(names["url"], make_rows(60)) as store:
        if engine.name == "qdrant":
            store.publish("live")
    exec(CODE[0], names)
    assert "All vectors have unit length." in capsys.readouterr().out
    with open_store(names["reader"]) as store:
        assert store.describe().width == WIDTH
