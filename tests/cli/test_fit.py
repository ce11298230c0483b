"""`ea-jax fit`, from files of pairs to an entry that loads."""

import json
import os

import numpy as np
import pytest

from ea_jax.data.pairs import Pairs, write_pairs
from ea_jax.encoders.encoder import Encoder
from ea_jax.loading import load, load_quality
from ea_jax.registry.locations import BUNDLED
from ea_jax.workflows import fit_entry as workflow
from tests.conftest import TOY_SPACES, toy_pairs


@pytest.fixture
def toy_files(tmp_path, monkeypatch):
    """Training and test pairs of the toy spaces, and a registry that knows the spaces."""
    x, y = toy_pairs(400)
    y = y + 0
    group = [f"g{i % 9}" for i in range(300)]
    write_pairs(tmp_path / "train.parquet", Pairs(x=x[:300], y=y[:300], group=group))
    write_pairs(tmp_path / "test.parquet", Pairs(x=x[280:], y=y[280:], query=np.arange(120) < 40))
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "spaces.toml").write_text(TOY_SPACES)
    monkeypatch.setenv("EA_JAX_REGISTRY", str(tmp_path / "spaces"))
    return tmp_path


FIT = ("--source", "toy-a", "--target", "toy-b", "--flavor", "mine")


def test_fit_writes_an_entry_without_near_duplicates_of_tests(ea, toy_files, monkeypatch):
    out_root = toy_files / "out"
    code, out, err = ea(
        "fit", str(toy_files / "train.parquet"), *FIT, "--out", str(out_root),
        "--test", f"held={toy_files / 'test.parquet'}", "--near", "0.999",
    )  # fmt: skip
    assert code == 0, err
    assert out.strip() == str(out_root / "toy-a--toy-b--mine")
    assert "20 pairs left out as near-duplicates" in err
    monkeypatch.setenv("EA_JAX_REGISTRY", os.pathsep.join([str(out_root), str(toy_files / "spaces")]))
    info = json.loads(ea("info", "toy-a--toy-b--mine", "--json")[1])
    assert (info["training"]["pairs"], info["training"]["prior"]) == (280, "none")
    assert info["metrics"]["held"]["store"]["cosine"] > 0.9
    card = (out_root / "toy-a--toy-b--mine" / "card.md").read_text()
    assert card.startswith("---\n")
    assert "\nlibrary_name: ea_jax\n" in card
    assert f"{info['metrics']['held']['query']['recall@1']:.3f}" in card
    adapt = load("toy-a", "toy-b")
    assert adapt.spec.d_out == 12


def test_the_last_message_compares_with_keeping_the_source(ea, toy_files):  # CASES F13
    code, _, err = ea("fit", str(toy_files / "train.parquet"), *FIT, "--out", str(toy_files / "out"))
    assert code == 0, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("ea-jax: ")
    assert "Of 300 held-out queries, " in last
    assert "after embedding the corpus again with toy-a" in last


def test_an_entry_is_overwritten_only_when_asked(ea, toy_files):
    command = ("fit", str(toy_files / "train.parquet"), *FIT, "--out", str(toy_files / "out"))
    assert ea(*command)[0] == 0
    before = (toy_files / "out" / "toy-a--toy-b--mine" / "entry.toml").read_bytes()
    code, out, err = ea(*command, "--seed", "1")
    assert (code, out) == (1, "")
    assert "toy-a--toy-b--mine exists already. Choose another --flavor, or set --replace." in err
    assert (toy_files / "out" / "toy-a--toy-b--mine" / "entry.toml").read_bytes() == before
    assert ea(*command, "--seed", "1", "--replace")[0] == 0
    assert (toy_files / "out" / "toy-a--toy-b--mine" / "entry.toml").read_bytes() != before


@pytest.fixture
def with_prior(ea, toy_files, monkeypatch):
    """A registry with an adapter `small` of 300 pairs, and files of 60 pairs of another domain."""
    root = toy_files / "prior"
    small = ("--flavor", "small", "--family", "linear", "--out", str(root))
    code, _, err = ea("fit", str(toy_files / "train.parquet"), *FIT[:4], *small)
    assert code == 0, err
    monkeypatch.setenv("EA_JAX_REGISTRY", os.pathsep.join([str(root), str(toy_files / "spaces")]))
    x, y = toy_pairs(400)
    write_pairs(toy_files / "few.parquet", Pairs(x=x[300:360], y=y[300:360]))
    return toy_files


def test_fit_starts_from_the_registrys_adapter_unless_told_otherwise(ea, with_prior, monkeypatch):
    used = []
    real = workflow.fit
    monkeypatch.setattr(workflow, "fit", lambda *a, **k: used.append(k["prior"]) or real(*a, **k))
    few = ("fit", str(with_prior / "few.parquet"), *FIT[:4])
    for i, prior in enumerate(("auto", "none", "toy-a--toy-b--small")):
        out = with_prior / f"out{i}"
        code, _, err = ea(*few, "--prior", prior, "--out", str(out))
        assert code == 0, err
        assert ("starting from toy-a--toy-b--small" in err) == (prior != "none")
    stored = load_quality("toy-a", "toy-b", flavor="small", root=with_prior / "prior")
    assert used[1] is None
    np.testing.assert_array_equal(used[0].params["adapter"]["out"]["kernel"], stored.params["adapter"]["out"]["kernel"])
    code, out, err = ea(*few, "--prior", "toy-a--toy-b--smal", "--out", str(with_prior / "out"))
    assert (code, out) == (1, "")
    assert "Did you mean toy-a--toy-b--small" in err
    code, out, err = ea(*few, "--family", "kernel", "--prior", "toy-a--toy-b--small", "--out", str(with_prior / "out"))
    assert (code, out) == (1, "")
    assert "a fit with a prior is linear" in err


def test_shortened_matryoshka_targets_are_accepted(ea, with_prior):  # CASES F11
    spaces = with_prior / "spaces" / "spaces.toml"
    text = spaces.read_text().replace('aliases = ["toy-b"]', 'aliases = ["toy-b"]\nmatryoshka = true')
    x, y = toy_pairs(360)
    cut = y[:, :6] / np.linalg.norm(y[:, :6], axis=1, keepdims=True)
    write_pairs(with_prior / "cut.parquet", Pairs(x=x[300:], y=cut[300:]))
    command = ("fit", str(with_prior / "cut.parquet"), *FIT, "--out", str(with_prior / "out"))
    code, _, err = ea(*command)
    assert code == 1
    assert "column y, row 0: the vector has width 6, but toy/target has width 12" in err
    spaces.write_text(text)
    code, _, err = ea(*command)
    assert code == 0, err
    assert "starting from toy-a--toy-b--small" in err
    adapt = load("toy-a", "toy-b", flavor="mine", root=with_prior / "out")
    mapped = np.asarray(adapt(adapt.params, x[300:]))
    assert mapped.shape == (60, 6)
    assert np.sum(mapped * cut[300:], axis=1).mean() > 0.9


def test_vectors_without_texts_and_prior_try_the_kernel(ea, toy_files, monkeypatch):
    families = []
    real = workflow.fit
    monkeypatch.setattr(workflow, "fit", lambda *a, **k: families.append(k["family"]) or real(*a, **k))
    command = ("fit", str(toy_files / "train.parquet"), *FIT)
    assert ea(*command, "--out", str(toy_files / "a"))[0] == 0
    assert ea(*command, "--family", "linear", "--out", str(toy_files / "b"))[0] == 0
    assert families == ["auto", "linear"]


def test_a_folder_of_arrays_fits_like_a_file(ea, toy_files, monkeypatch):
    x, y = toy_pairs(400)
    folder = toy_files / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", x[:300])
    np.save(folder / "y.npy", y[:300].astype(np.float64))
    np.save(folder / "group.npy", np.asarray([f"g{i % 9}" for i in range(300)]))
    sizes = ("--family", "linear", "--test", f"held={toy_files / 'test.parquet'}", "--near", "0.999")
    infos = []
    for pairs in (folder, toy_files / "train.parquet"):
        out_root = toy_files / f"out-{pairs.stem}"
        code, out, err = ea("fit", str(pairs), *FIT, *sizes, "--out", str(out_root))
        assert code == 0, err
        assert "20 pairs left out as near-duplicates" in err
        assert [file.name for file in out_root.iterdir()] == [out.strip().rpartition("/")[2]]
        assert not list(toy_files.glob(".fit-*"))
        monkeypatch.setenv("EA_JAX_REGISTRY", os.pathsep.join([str(out_root), str(toy_files / "spaces")]))
        infos.append(json.loads(ea("info", "toy-a--toy-b--mine", "--json")[1]) | {"path": "", "found": ""})
    assert infos[0] == infos[1]


@pytest.mark.slow
def test_fit_embeds_the_texts_of_a_folder(ea, minilm, tmp_path):
    (tmp_path / "pairs").mkdir()
    texts = [f"text number {i}" for i in range(60)]
    np.save(tmp_path / "pairs" / "y.npy", np.eye(60, 256, dtype=np.float16))
    (tmp_path / "pairs" / "text.txt").write_text("\n".join(texts))
    code, _, err = ea(
        "fit", str(tmp_path / "pairs"), "--source", "minilm", "--target", "wordllama", "--family", "linear",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 0, err
    assert "60 pairs read" in err
    assert (tmp_path / "out" / "minilm--wordllama--mine" / "entry.toml").exists()


def test_an_adapter_fitted_with_a_prompt_embeds_with_it(ea, minilm, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    space = next(s for s in (BUNDLED / "spaces.toml").read_text().split("[[space]]") if 'aliases = ["minilm"' in s)
    (out / "spaces.toml").write_text(f'[[space]]{space}prompts = {{ query = "query: " }}\n')
    monkeypatch.setenv("EA_JAX_REGISTRY", str(out))
    texts = [f"text number {i}" for i in range(60)]
    write_pairs(tmp_path / "pairs.parquet", Pairs(text=texts, y=np.eye(60, 256, dtype=np.float32)))
    command = ("fit", str(tmp_path / "pairs.parquet"), "--target", "wordllama", "--family", "linear", "--out", str(out))
    for source, prompt, message in [("minilm", "quary", "no prompt named 'quary'"), ("nomic", "query", "Leave it out")]:
        code, _, err = ea(*command, "--source", source, "--prompt", prompt)
        assert code == 1
        assert message in err
    assert ea(*command, "--source", "minilm", "--prompt", "query")[0] == 0
    info = json.loads(ea("info", "minilm--wordllama--mine", "--json")[1])
    assert info["encoder"]["prefix"] == "query: "
    assert info["encoder"]["fingerprint"] != minilm.spec.facts()["fingerprint"]
    code, output, err = ea("embed", *command[2:4], "--source", "minilm", "--flavor", "mine", "--text", "hello")
    assert code == 0, err
    adapt = load("minilm", "wordllama", flavor="mine", root=out)
    expected = np.asarray(adapt(adapt.params, minilm(["query: hello"])))
    np.testing.assert_allclose(json.loads(output)[0]["embedding"], expected[0], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: Pairs(x=p.x[:, :5], y=p.y), "column x, row 0: the vector has width 5, but toy/source has width 8"),
        (
            lambda p: Pairs(text=["a"] * len(p.y), y=p.y[:, :5]),
            "column y, row 0: the vector has width 5, but toy/target has width 12",
        ),
        (lambda p: Pairs(x=2 * p.x, y=p.y), "column x, row 0: the vector has length 2.000"),
        (lambda p: Pairs(text=["a"] * len(p.y), y=p.y), "has no column x, and toy/source does not run here"),
        (lambda p: Pairs(x=p.x[:9], y=p.y[:9]), "There are 9 pairs"),
    ],
)
def test_invalid_pairs_are_refused_and_nothing_is_written(ea, toy_files, change, message):
    x, y = toy_pairs(100)
    write_pairs(toy_files / "bad.parquet", change(Pairs(x=x, y=y)))
    code, out, err = ea("fit", str(toy_files / "bad.parquet"), *FIT, "--out", str(toy_files / "out"))
    assert (code, out) == (1, "")
    assert message in err
    assert not (toy_files / "out").exists()
    assert not list(toy_files.glob(".fit-*"))


def test_test_files_need_a_column_query(ea, toy_files):
    train = str(toy_files / "train.parquet")
    for test, message in [(f"a={train}", "needs the column query"), ("nonsense", "is not NAME=FILE")]:
        code, out, err = ea("fit", train, *FIT, "--out", str(toy_files / "out"), "--test", test)
        assert (code, out) == (1, "")
        assert message in err


@pytest.mark.parametrize(
    ("width", "message"),
    [(384, "column x is not what sentence-transformers/all-MiniLM-L6-v2 makes of column text"), (300, "has width 300")],
)
def test_vectors_of_another_encoder_are_refused(ea, minilm, tmp_path, width, message):
    y = np.eye(60, 1536, dtype=np.float32)
    x = np.asarray(minilm([f"other {i}" for i in range(60)])) if width == 384 else np.eye(60, width, dtype=np.float32)
    write_pairs(tmp_path / "wrong.parquet", Pairs(x=x, y=y, text=[f"text {i}" for i in range(60)]))
    code, out, err = ea(
        "fit", str(tmp_path / "wrong.parquet"), "--source", "minilm", "--target", "oai-3-small", "--out", str(tmp_path)
    )
    assert (code, out) == (1, "")
    assert message in err


def test_test_files_are_checked_before_anything_is_embedded(ea, minilm, tmp_path, monkeypatch):  # CASES F13
    def refuse(*arguments, **options):
        raise AssertionError("a text was embedded")

    monkeypatch.setattr(Encoder, "__call__", refuse)
    monkeypatch.setattr(Encoder, "stream", refuse)
    texts, y = [f"text {i}" for i in range(60)], np.eye(60, 1536, dtype=np.float32)
    write_pairs(tmp_path / "pairs.parquet", Pairs(text=texts, y=y))
    write_pairs(tmp_path / "test.parquet", Pairs(text=texts, y=y, query=np.arange(60) < 55))
    command = ("fit", str(tmp_path / "pairs.parquet"), "--source", "minilm", "--target", "oai-3-small")
    for file, message in [("pairs", "needs the column query"), ("test", "55 queries and a corpus of 5")]:
        code, out, err = ea(*command, "--out", str(tmp_path / "out"), "--test", f"a={tmp_path / file}.parquet")
        assert (code, out) == (1, "")
        assert message in err


def test_the_card_says_which_corpus_rows_were_fitted_on(ea, toy_files):  # CASES F14
    x, y = toy_pairs(400)
    write_pairs(toy_files / "test.parquet", Pairs(x=x[280:], y=y[280:], query=np.arange(120) >= 80))
    write_pairs(toy_files / "train.parquet", Pairs(x=x[:330], y=y[:330]))
    test = ("--test", f"held={toy_files / 'test.parquet'}", "--near", "0.99999")
    assert ea("fit", str(toy_files / "train.parquet"), *FIT, *test, "--out", str(toy_files / "out"))[0] == 0
    card = (toy_files / "out" / "toy-a--toy-b--mine" / "card.md").read_text()
    assert "were left out of the fit; corpus rows that were fitted on: 50 in held." in card
