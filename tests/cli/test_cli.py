import io
import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import ea_jax
from ea_jax.data import provenance
from ea_jax.data.pairs import Pairs, write_pairs
from ea_jax.errors import Unavailable
from ea_jax.loading import load
from ea_jax.registry.checkpoint import save_params
from ea_jax.registry.locations import BUNDLED
from tests.conftest import toy_pairs, write_toy_registry

EMBED = ("embed", "--source", "minilm", "--target", "oai-3-small")
NAMES = {"source": "sentence-transformers/all-MiniLM-L6-v2", "target": "openai/text-embedding-3-small"}
EA = [sys.executable, "-m", "ea_jax.cli"]


def test_embed_gives_one_json_array_of_rows(ea, minilm):
    code, out, err = ea(*EMBED, "--text", "hello", "--text", "wörld")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["text"] for row in rows] == ["hello", "wörld"]
    for row in rows:
        assert row.keys() == {"text", "embedding", "confidence", "source", "target", "flavor"}
        assert row | NAMES | {"flavor": "small"} == row
        assert 0 <= row["confidence"] <= 1
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-6)


def test_texts_below_the_confidence_are_marked_for_the_provider(ea, minilm):
    texts = "--text", "Where can I get a hamburger?", "--text", "x9$ q!! 77//"
    plain = [row["confidence"] for row in json.loads(ea(*EMBED, *texts)[1])]
    least = str(sum(plain) / 2)
    code, out, err = ea(*EMBED, *texts, "--min-confidence", least)
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert plain[0] > plain[1]
    assert "route" not in rows[0]
    assert rows[1]["route"] == "provider"
    code, out, err = ea(*EMBED, *texts, "--min-confidence", least, "--no-quality")
    assert (code, out) == (2, "")
    assert "--min-confidence requires confidences" in err


def test_printed_embeddings_equal_the_librarys_bit_for_bit(ea, minilm):
    adapt = load("minilm", "oai-3-small")
    wanted = np.asarray(adapt(adapt.params, minilm(["hello"])))[0]
    found = np.asarray(json.loads(ea(*EMBED, "--text", "hello")[1])[0]["embedding"], np.float32)
    np.testing.assert_array_equal(found, wanted)


def test_lines_of_stdin_become_one_ndjson_row_each(ea, minilm, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\r\n\nworld\n"))
    code, out, err = ea(*EMBED, "--ndjson", "--no-quality")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [row["text"] for row in rows] == ["hello", "", "world"]
    assert all("confidence" not in row and row["embedding"] for row in rows)


def test_purpose_length_batch_and_device_options_work(ea, minilm):
    plain = json.loads(ea(*EMBED, "--text", "one two three four")[1])[0]
    same = json.loads(ea(*EMBED, "--text", "one two three four", "--batch-size", "1", "--device", "cpu")[1])[0]
    query = json.loads(ea(*EMBED, "--text", "one two three four", "--purpose", "query")[1])[0]
    _, out, err = ea(*EMBED, "--text", "one two three four", "--max-length", "4")
    assert same == plain
    assert not np.allclose(query["embedding"], plain["embedding"], atol=1e-3)
    assert not np.allclose(json.loads(out)[0]["embedding"], plain["embedding"], atol=1e-3)
    assert err == "ea-jax: 1 of 1 texts were cut at 4 tokens.\n"


def test_verbose_messages_go_to_stderr(ea, minilm):
    _, out, err = ea(*EMBED, "--text", "hello", "--verbose")
    assert len(json.loads(out)) == 1
    assert "1 texts embedded" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "--source", "minilmm", "--target", "oai-3-small", "--text", "a"), "Did you mean minilm"),
        (("embed", "--source", "minilm", "--target", "gemini-004", "--text", "a"), "is encrypted"),
        (("embed", "--source", "wordllama", "--target", "gemini-004", "--text", "a"), "No adapter goes from"),
        ((*EMBED, "--flavor", "smal", "--text", "a"), "Did you mean small?"),
        ((*EMBED, "--device", "abacus", "--text", "a"), "JAX has no device 'abacus' here; it has cpu."),
        ((*EMBED, "--text", "caf\udce9"), "lone surrogate"),
        ((*EMBED, "--max-length", "9999", "--text", "a"), "takes from 3 to 512 tokens"),
        (("info", "minilm--oai-3-smal--small"), "Did you mean minilm--oai-3-small--small"),
        (("fetch", "oai-3-small"), "has no local encoder"),
        (("fit", "none.parquet", "--source", "toy-x", "--target", "oai-3-small", "--out", "x"), "No model space"),
    ],
)
def test_an_expected_error_is_one_line_on_stderr_and_exit_code_1(ea, minilm, arguments, message):
    code, out, err = ea(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("ea-jax: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("embed",), ("nonsense",), (*EMBED, "--purpose", "both", "--text", "a"), (*EMBED, "--batch-size", "0")],
)
def test_a_usage_error_is_exit_code_2(ea, arguments):
    code, out, err = ea(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err


def test_bytes_that_are_not_text_are_rejected(minilm):
    found = subprocess.run([*EA, *EMBED, "--ndjson"], input=b"caf\xe9\n", capture_output=True, check=False)
    assert found.returncode == 1
    assert b"stdin is not UTF-8 text" in found.stderr
    assert b"Traceback" not in found.stderr


def test_a_closed_pipe_is_not_an_error(minilm):
    """`ea-jax embed --ndjson | head -1`: the pipe closes with most of the output unwritten."""
    writer = subprocess.Popen(
        [*EA, *EMBED, "--ndjson"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writer.stdin.write(b"hello\n" * 300)
    writer.stdin.close()
    assert json.loads(writer.stdout.readline())["text"] == "hello"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    writer.wait()


def test_a_mismatched_encoder_is_rejected_with_the_different_facts(ea, minilm, monkeypatch, tmp_path):
    import shutil

    shutil.copytree(BUNDLED, tmp_path / "registry")
    entry = tmp_path / "registry" / "minilm--oai-3-small--small" / "entry.toml"
    facts = minilm.spec.facts()
    changed = entry.read_text().replace(facts["fingerprint"], "0" * 16).replace("max_length = 256", "max_length = 128")
    entry.write_text(changed)
    monkeypatch.setenv("EA_JAX_REGISTRY", str(tmp_path / "registry"))
    code, out, err = ea(*EMBED, "--text", "a")
    assert (code, out) == (1, "")
    assert "was fitted on another encoder: max_length 256 for 128" in err


def test_list_shows_all_adapters_with_their_facts_in_json(ea):
    code, out, err = ea("list")
    assert (code, err) == (0, "")
    assert "minilm--oai-3-small--small" in out
    listed = {row["name"]: row for row in json.loads(ea("list", "--json")[1])}
    assert listed["minilm--oai-3-small--small"]["d_out"] == 1536
    assert all("pro" in row["tags"] for row in json.loads(ea("list", "--json", "--pro-only")[1]))


def test_list_pro_only_shows_paid_adapters(ea, monkeypatch, tmp_path):
    root = write_toy_registry(tmp_path / "registry", ("small", "large"))
    paid = root / "toy-a--toy-b--large" / "entry.toml"
    paid.write_text(paid.read_text().replace("tags = []", 'tags = ["pro"]'))
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    listed = json.loads(ea("list", "--json", "--pro-only")[1])
    assert [row["flavor"] for row in listed if "embedding-adapters" not in row["tags"]] == ["large"]


def test_registry_info_and_paths_show_the_files_facts(ea):
    assert "sentence-transformers/all-MiniLM-L6-v2" in ea("registry")[1]
    assert "recall@10" in ea("info", "minilm--oai-3-small--small")[1]
    assert json.loads(ea("info", "minilm--oai-3-small--small", "--json")[1])["family"] == "linear"
    assert re.search(r"minilm -> oai-3-small +small", ea("paths", "minilm", "oai-3-small")[1])


def test_news_and_version_print_text(ea):
    assert "MiniLM" in ea("news")[1]
    assert ea("version")[1].startswith(f"ea_jax {ea_jax.__version__}, jax ")


def test_version_and_h_are_options_of_every_command_line(ea):
    """Case F24."""
    code, out, err = ea("--version")
    assert (code, out, err) == (0, ea("version")[1], "")
    assert ea("-h") == ea("--help")
    assert ea("list", "-h") == ea("list", "--help")


@pytest.mark.parametrize("width", ["40", "80"])
def test_help_is_never_cut(ea, monkeypatch, width):
    """Case F25."""
    monkeypatch.setenv("COLUMNS", width)
    summary = " ".join(ea("--help")[1].split())
    assert "..." not in summary.replace("[ARGS]...", "")
    assert "List routes between spaces over one or two adapters, with their measured recall." in summary


@pytest.mark.parametrize("command", ["docs", "donate"])
def test_commands_without_content_are_gone(ea, command):
    """Case F26."""
    code, out, err = ea(command)
    assert (code, out) == (2, "")
    assert f"No such command '{command}'" in err


@pytest.mark.parametrize("name", ["mapped.npy", "mapped/"])
def test_a_refused_output_leaves_no_job_folder(ea, tmp_path, monkeypatch, toy_root, name):
    """Case F26."""
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    np.save(tmp_path / "x.npy", toy_pairs()[0])
    out = tmp_path / name
    if name.endswith("/"):
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    else:
        out.write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    code, printed, err = ea("map", str(tmp_path / "x.npy"), str(out), "--source", "toy-a", "--target", "toy-b")
    assert (code, printed, err.count("\n")) == (1, "", 1)
    assert str(out).rstrip("/") in err
    assert sorted(tmp_path.rglob("*")) == before


@contextmanager
def full_disk() -> Iterator[None]:
    """Files cannot grow beyond 100 bytes, as on a disk that is almost full; not even pytest's own output."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(ea, tmp_path, monkeypatch, toy_root):
    """Case F17: `add`."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with full_disk():
        code, out, err = ea("add", str(toy_root / "toy-a--toy-b--small"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert str(tmp_path) in err
    assert len(err) < 500
    assert not list((tmp_path / "ea_jax" / "registry").iterdir())


def test_a_checkpoint_on_a_full_disk_leaves_nothing(tmp_path):
    """Case F17: `fit`."""
    params = {"out": {"kernel": np.random.default_rng(0).normal(size=(100, 100))}}
    with full_disk(), pytest.raises(Unavailable, match=r"params cannot be written: .{5,200}$"):
        save_params(tmp_path / "params", params)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["fit", "map"])
def test_a_folder_that_cannot_be_written_is_one_sentence(ea, tmp_path, monkeypatch, toy_root, command):
    """Case F17: /proc takes no files."""
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    x, y = toy_pairs()
    write_pairs(tmp_path / "pairs.parquet", Pairs(y, x))
    np.save(tmp_path / "x.npy", x)
    files = {
        "fit": (str(tmp_path / "pairs.parquet"), "--out", "/proc/registry"),
        "map": (str(tmp_path / "x.npy"), "/proc/mapped.npy"),
    }
    code, out, err = ea(command, *files[command], "--source", "toy-a", "--target", "toy-b")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "/proc" in err


def test_the_command_line_names_options_for_arguments(ea, tmp_path):
    code, _, err = ea("drift", "minilm--oai-3-small--small", str(vectors_of_another_encoder(tmp_path)))
    assert code == 1
    assert "set --assume-source to accept" in err


def vectors_of_another_encoder(folder: Path) -> Path:
    facts = {"encoder": {"model": "toy/other", "fingerprint": "1" * 16}}
    schema = provenance.write(pa.schema([pa.field("x", pa.list_(pa.float32(), 384))]), facts)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(384, np.float32)), 384)
    parquet.write_table(pa.table([rows], schema=schema), folder / "x.parquet")
    return folder / "x.parquet"


def test_every_command_has_help_with_an_example(ea):
    commands = re.findall(r"^  (\w+)", ea("--help")[1].partition("Commands:")[2], re.MULTILINE)
    assert {"embed", "list", "registry", "info", "paths", "news", "version", "fit"} <= set(commands)
    for command in commands:
        code, out, _ = ea(command, "--help")
        assert code == 0
        assert f"Example: ea-jax {command}" in " ".join(out.split())


def test_empty_stdin_gives_an_empty_result(ea, minilm, monkeypatch):
    for option, wanted in {"--ndjson": "", "--quality": "[]\n"}.items():
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        assert ea(*EMBED, option) == (0, wanted, "")


def test_eval_and_compare_measure_pairs_and_explain_errors(ea, tmp_path, monkeypatch, toy_root):

    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    x, y = toy_pairs()
    write_pairs(tmp_path / "pairs.parquet", Pairs(y, x))
    asked = ("eval", "--source", "toy-a", "--target", "toy-b", "--pairs", str(tmp_path / "pairs.parquet"))
    code, out, err = ea(*asked, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["data"]["queries"] == 60
    assert "60 random rows (seed 0) are the queries" in report["notes"][0]
    (tmp_path / "a.json").write_text(out)
    code, out, _ = ea("compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--json")
    assert code == 0
    assert json.loads(out)["adapter/recall@10"]["value"] == 0
    np.save(tmp_path / "q.npy", x[:20])
    np.save(tmp_path / "c.npy", y[:30])
    files = ("--queries", str(tmp_path / "q.npy"), "--corpus", str(tmp_path / "c.npy"), "--protocol", "qa")
    code, out, err = ea("eval", "--source", "toy-a", "--target", "toy-b", *files)
    assert (code, out) == (1, "")
    assert err.startswith("ea-jax: There are 20 queries and 30 corpus rows")
    np.save(tmp_path / "c.npy", y[:20])
    code, out, err = ea("eval", "--source", "toy-a", "--target", "toy-b", *files)
    assert (code, err) == (0, "")
    assert "All queries, and by minimum confidence" in out
