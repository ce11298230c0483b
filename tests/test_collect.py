import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax import collect as collecting
from ea_jax import provider as providing
from ea_jax.collect import MOST_BYTES, batches, collect
from ea_jax.errors import BadInput
from ea_jax.parts import parts_folder
from ea_jax.provider import retry_after
from ea_jax.tables import read_pairs
from ea_jax.texts import distinct
from tests.endpoint import (
    Server,
    answer,
    changed,
    content,
    cut,
    cut_unseen,
    dawdle,
    hang_up,
    page,
    recoded,
    status,
    vector,
)  # fmt: skip

KEY = "sk-test-0123456789"
TEXTS = [f"text {i}" for i in range(40)]
SPACES = """
[[space]]
id = "openai/toy-embedding"
aliases = ["toy"]
width = 12
unit_norm = true
local = false

[[space]]
id = "toy/raw"
aliases = ["raw"]
width = 12
unit_norm = false
local = false
"""


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def provider(server, tmp_path, monkeypatch):
    """The stand-in, with an environment that leads to it, and waits that are short."""
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "spaces.toml").write_text(SPACES)
    monkeypatch.setenv("EA_JAX_REGISTRY", str(tmp_path / "spaces"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(providing, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(providing, "LONGEST_WAIT", 0.05)
    return server


@pytest.fixture
def lines(tmp_path):
    """A file of the texts, one a line."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return tmp_path / "texts.txt"


@pytest.fixture
def pairs(ea, lines, tmp_path, provider):
    """Run `ea-jax pairs` on the texts: exit code, stdout and stderr."""

    def run(*options: str, texts=(), target: str = "toy", size: str = "4") -> tuple[int, str, str]:
        files = [str(path) for path in texts or [lines]]
        out = ["--out", str(tmp_path / "pairs.parquet")]
        return ea("pairs", *files, "--target", target, *out, "--batch-size", size, *options)

    return run


def check_rows(path, texts=TEXTS):
    found = read_pairs([path])
    assert found.text == list(texts)
    np.testing.assert_allclose(found.y, np.stack([vector(text) for text in texts]), atol=1e-7)
    return found


def test_pairs_are_the_providers_vectors_of_the_texts_in_their_order(pairs, provider, tmp_path):
    code, out, err = pairs("--workers", "3")
    assert (code, out) == (0, f"{tmp_path / 'pairs.parquet'}\n")
    check_rows(tmp_path / "pairs.parquet")
    assert sorted(provider.texts) == sorted(TEXTS)
    assert {len(body["input"]) for body in provider.asked} == {4}
    assert all(body["model"] == "toy-embedding" and "dimensions" not in body for body in provider.asked)
    assert 1 < provider.most_active <= 3
    assert provider.keys == {f"Bearer {KEY}"}
    assert "counted 120 tokens" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "spaces", "texts.txt"]


def test_the_file_names_its_model_and_holds_float32_vectors_of_a_fixed_width(pairs, tmp_path):
    assert pairs()[0] == 0
    schema = parquet.read_schema(tmp_path / "pairs.parquet")
    assert schema.names == ["text", "y"]
    assert schema.field("y").type == pa.list_(pa.float32(), 12)
    facts = {"target": "openai/toy-embedding", "model": "toy-embedding", "dimensions": "12"}
    assert {f"ea_jax.{key}".encode(): value.encode() for key, value in facts.items()}.items() <= schema.metadata.items()


def test_the_key_is_neither_printed_nor_written(pairs, provider, tmp_path):
    quoting = {"message": f"{'o' * 280} {KEY} is of no use"}  # across where long messages are cut
    provider.faults = [status(code, **quoting) for code in (500, 400)]
    told = [pairs("--workers", "1"), pairs()]
    for code in (401, 403, 404, 422):
        provider.faults = [status(code, **quoting)]
        (tmp_path / "pairs.parquet").unlink(missing_ok=True)
        told.append(pairs("--workers", "1"))
    assert [code for code, _, _ in told] == [1, 0, 1, 1, 1, 1]
    assert not any(KEY[:9] in out + err for _, out, err in told)
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "fault"),
    {
        "500": status(500),
        "503 with a wait": status(503, {"Retry-After": "0"}),
        "409": status(409),
        "429": status(429),
        "cut": cut,
        "cut, unseen": cut_unseen,
        "hung up": hang_up,
        "a page": page,
        "JSON of another kind": lambda handler, body: handler.send(200, b'{"error": {"message": "overloaded"}}'),
        "JSON that is cut": lambda handler, body: handler.send(200, content(body)[:-9]),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_passes_is_asked_again(pairs, provider, tmp_path, name, fault):
    provider.faults = [fault] * 3
    code, _, err = pairs("--workers", "1")
    assert code == 0, err
    check_rows(tmp_path / "pairs.parquet")
    assert len(provider.asked) == 13
    assert err.count("asking again in 0.") == 3
    assert provider.asked[0]["input"] == provider.asked[3]["input"]


def test_an_answer_that_takes_too_long_is_asked_for_again(pairs, provider, tmp_path, monkeypatch):
    monkeypatch.setattr(providing, "TIMEOUT", 0.2)
    provider.faults = [dawdle]
    code, _, err = pairs("--workers", "1")
    assert code == 0, err
    assert "it did not answer within" in err
    check_rows(tmp_path / "pairs.parquet")


def test_a_busy_provider_is_left_alone_for_as_long_as_it_asks(pairs, provider, tmp_path):
    provider.faults = [status(429, {"Retry-After": "1.2"}), status(429, {"retry-after-ms": "300"})]
    assert pairs("--workers", "1")[0] == 0
    first, second, third = provider.times[:3]
    assert second - first >= 1.2
    assert 0.3 <= third - second < 1.2
    check_rows(tmp_path / "pairs.parquet")


def test_waits_are_read_as_seconds_milliseconds_or_a_date():
    assert retry_after({"retry-after": "20"}) == 20
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(100, abs=2)
    assert retry_after({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "inf"}):
        assert retry_after(nothing) is None


def test_a_provider_that_stays_away_is_given_up_and_what_is_done_is_kept(pairs, provider, tmp_path):
    provider.faults = [answer] * 2 + [status(502)] * 8
    code, out, err = pairs("--workers", "1")
    assert (code, out) == (1, "")
    assert "gave no vectors in 8 tries; at last, it answered with status 502. What is done is kept" in err
    assert not (tmp_path / "pairs.parquet").exists()
    before = len(provider.asked)
    assert pairs()[0] == 0
    assert len(provider.asked) - before == 8
    check_rows(tmp_path / "pairs.parquet")


REFUSALS = {
    "the key": (
        status(401, message="Incorrect API key provided: sk-te…89"),
        r"refuses the key \(401\).*OPENAI_API_KEY",
    ),
    "rights": (status(403, message="not in your country"), r"\(403\): not in your country\. Check the key's rights"),
    "the model": (status(404, message="no such model"), r"has no toy-embedding \(404\).*--model and --base-url"),
    "a text": (status(400, message="too long"), r"of 4 texts \(400\): too long\. The longest .* text 10 .*'text 10'"),
    "the shape": (status(422), r"\(422\): no\."),
    "the budget": (status(429, code="insufficient_quota"), r"nothing left to spend \(429\)\. Top it up"),
    "the hour": (status(429, {"Retry-After": "7200"}), "asks to be left alone for 120 minutes. What is done is kept"),
}


@pytest.mark.parametrize("refused", REFUSALS)
def test_what_will_not_pass_stops_at_once_with_one_sentence(pairs, provider, tmp_path, refused):
    fault, told = REFUSALS[refused]
    provider.faults = [fault]
    code, out, err = pairs("--workers", "1")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("ea-jax: ")
    assert re.search(told, last), last
    assert "Traceback" not in err
    assert len(provider.asked) == 1
    assert not (tmp_path / "pairs.parquet").exists()


def test_a_failure_ends_the_waits_of_the_others(pairs, provider):
    provider.delay = 0.1
    provider.faults = [status(429, {"Retry-After": "600"}), status(401)]
    start = time.monotonic()
    code, _, err = pairs("--workers", "2")
    assert code == 1
    assert "refuses the key" in err
    assert time.monotonic() - start < 20


SPOILT = {
    "too few": (changed(lambda data: data[:-1]), "answered with 3 vectors for 4 texts"),
    "none": (changed(lambda data: []), "answered with 0 vectors for 4 texts"),
    "one twice": (changed(lambda data: [*data[:-1], data[0]]), "indices that are not those of the texts"),
    "no index": (changed(lambda data: [{"embedding": item["embedding"]} for item in data]), "indices that are not"),
    "narrow": (recoded(lambda y: y[:-1]), "text 11: the vector has width 11, but openai/toy-embedding has width 12"),
    "not finite": (recoded(lambda y: y * np.nan), "text 11: the vector is zero or not finite"),
    "zero": (recoded(lambda y: y * 0), "text 11: the vector is zero or not finite"),
    "long": (recoded(lambda y: y * 1.02), "text 11: the vector has length 1.02, but .* have length one"),
    "no numbers": (changed(lambda data: [item | {"embedding": "?"} for item in data]), "is no list of numbers"),
    "null": (changed(lambda data: [item | {"embedding": None} for item in data]), "is no list of numbers"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_vectors_that_are_not_of_the_space_are_refused_and_not_kept(pairs, provider, tmp_path, spoilt):
    fault, told = SPOILT[spoilt]
    provider.faults = [fault]
    code, out, err = pairs("--workers", "1")
    assert (code, out) == (1, "")
    assert re.search(told, err.splitlines()[-1]), err
    assert len(provider.asked) == 1
    assert not list(tmp_path.rglob("*.npy"))


def test_vectors_in_another_order_are_put_right_by_their_index(pairs, provider, tmp_path):
    rng = random.Random(0)
    provider.faults = [changed(lambda data: rng.sample(data, len(data))) for _ in range(10)]
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def test_plain_numbers_are_taken_from_servers_that_do_not_know_base64(pairs, provider, tmp_path):
    provider.faults = [changed(lambda data: data, plain=True)] * 10
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def test_vectors_close_to_length_one_are_scaled_to_it_and_others_kept_as_they_are(pairs, provider, tmp_path):
    provider.faults = [recoded(lambda y: y * 1.004)]
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")
    (tmp_path / "pairs.parquet").unlink()
    provider.faults = [recoded(lambda y: y * 7)]
    assert pairs("--model", "m", "--workers", "1", target="raw")[0] == 0
    norms = np.linalg.norm(read_pairs([tmp_path / "pairs.parquet"]).y, axis=1)
    assert sorted(np.round(norms)) == [1] * 39 + [7]


def test_a_width_is_asked_for_where_one_is_given(pairs, provider, tmp_path):
    code, _, err = pairs("--dimensions", "8")
    assert code == 1
    assert "--dimensions is 8, but openai/toy-embedding has width 12" in err
    assert pairs("--dimensions", "12")[0] == 0
    assert {body["dimensions"] for body in provider.asked} == {12}


def test_other_spaces_need_a_model_and_an_endpoint(pairs, provider, monkeypatch, tmp_path):
    address = os.environ["OPENAI_BASE_URL"]
    for options in ((), ("--base-url", address)):
        assert "toy/raw is not OpenAI's: name its endpoint" in pairs(*options, target="raw")[2]
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert "name its endpoint" in pairs("--model", "m", target="raw")[2]
    assert pairs("--model", "m", "--base-url", address, target="raw")[0] == 0
    assert {body["model"] for body in provider.asked} == {"m"}
    check_rows(tmp_path / "pairs.parquet")


def test_the_option_comes_before_the_environment(pairs, provider, monkeypatch):
    address = os.environ["OPENAI_BASE_URL"]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert pairs("--base-url", address)[0] == 0


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://localhost", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(pairs, provider, address):
    code, out, err = pairs("--base-url", address)
    assert (code, out) == (1, "")
    assert "is no http address" in err
    assert not provider.asked


def test_without_a_key_nothing_is_asked(pairs, provider, monkeypatch):
    for key, told in {
        None: "There is no key: set OPENAI_API_KEY",
        "": "There is no key",
        "sk-\x07": "no key has",
    }.items():
        monkeypatch.delenv("OPENAI_API_KEY") if key is None else monkeypatch.setenv("OPENAI_API_KEY", key)
        code, _, err = pairs()
        assert code == 1
        assert told in err
    assert not provider.asked
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert pairs()[0] == 0


def test_a_missing_client_is_one_sentence_with_the_command(pairs, provider, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    code, out, err = pairs()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith("which is not installed: pip install 'openai>=1.60'.")


def kill_after(parts: int, command: list[str], folder) -> None:
    """Start a run, and kill it once some of its requests are done."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.npy"))) < parts and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    out, err = run.communicate()
    assert run.returncode == -signal.SIGKILL, err
    assert out == b""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_ends_in_the_same_rows(pairs, provider, lines, tmp_path):
    assert pairs()[0] == 0
    whole = (tmp_path / "pairs.parquet").rename(tmp_path / "whole.parquet")
    out = tmp_path / "pairs.parquet"
    folder = parts_folder(out)
    command = [sys.executable, "-m", "ea_jax.cli", "pairs", str(lines), "--target", "toy", "--out", str(out)]
    provider.delay = 0.2
    for parts in (3, 6):  # killed twice, the second time with requests of another size
        kill_after(parts, [*command, "--batch-size", "4" if parts == 3 else "3", "--workers", "2"], folder)
        assert not out.exists()
    spans = [[int(number) for number in path.stem.split("-")] for path in folder.glob("*.npy")]
    done = {TEXTS[row] for start, end in spans for row in range(start, end)}
    assert 0 < len(done) < len(TEXTS)
    time.sleep(0.5)  # answers to the killed run are done with
    provider.delay, provider.asked = 0.0, []
    code, printed, err = pairs(size="5")
    assert (code, printed) == (0, f"{out}\n")
    assert f"{len(done)} of them done earlier" in err
    assert sorted(provider.texts) == sorted(set(TEXTS) - done)
    assert parquet.read_table(out).equals(parquet.read_table(whole), check_metadata=True)
    assert not folder.exists()


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_requests_under_way(pairs, provider, lines, tmp_path):
    out = tmp_path / "pairs.parquet"
    command = [sys.executable, "-m", "ea_jax.cli", "pairs", str(lines), "--target", "toy", "--out", str(out)]
    provider.delay = 1.0
    run = subprocess.Popen([*command, "--batch-size", "4", "--workers", "2"], stderr=subprocess.PIPE, text=True)
    while len(provider.asked) < 2 and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    err = run.communicate()[1]
    assert run.returncode not in (0, None)
    assert "Traceback" not in err
    assert "the requests under way are waited for, and kept" in err
    assert len(list(parts_folder(out).glob("*.npy"))) == len(provider.asked) == 2
    assert not out.exists()


def half_done(pairs, provider) -> None:
    """Leave a run with two of its ten requests done."""
    provider.faults = [answer, answer, status(401)]
    assert pairs("--workers", "1")[0] == 1
    provider.asked = []


def test_a_rerun_tells_what_is_left_and_asks_only_that(pairs, provider, tmp_path):
    half_done(pairs, provider)
    code, out, err = pairs("--dry-run")
    assert (code, out) == (0, "")
    assert "40 texts, 8 of them done earlier; to ask: about 54 tokens" in err
    assert pairs()[0] == 0
    assert len(provider.texts) == len(set(provider.texts)) == 32
    check_rows(tmp_path / "pairs.parquet")


def test_a_finished_job_whose_file_could_not_be_written_asks_nothing_again(pairs, provider, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ea_jax.parts._write_pairs", full)
        assert "No space left on device" in pairs()[2]
    assert not (tmp_path / "pairs.parquet").exists()
    provider.asked = []
    monkeypatch.delenv("OPENAI_API_KEY")
    assert pairs()[0] == 0
    assert provider.asked == []
    check_rows(tmp_path / "pairs.parquet")


def test_other_texts_or_another_model_do_not_go_on_with_a_half_done_file(pairs, provider, lines, tmp_path):
    half_done(pairs, provider)
    kept = sorted(path.name for path in parts_folder(tmp_path / "pairs.parquet").iterdir())
    told = [pairs("--model", "other")[2], pairs("--model", "m", target="raw")[2]]
    lines.write_text("\n".join(["text 0", "text one", *TEXTS[2:]]))
    told.append(pairs()[2])
    lines.write_text("\n".join([*TEXTS, "one more"]))
    told.append(pairs("--force", "--yes")[2])
    (tmp_path / "spaces" / "spaces.toml").write_text(SPACES.replace("width = 12", "width = 6"))
    lines.write_text("\n".join(TEXTS))
    told.append(pairs()[2])
    wanted = [
        ("the model is now other, it was toy-embedding.",),
        ("the target is now toy/raw, it was openai/toy-embedding", "the model is now m"),
        ("text 1 is now 'text one', it was 'text 1'.",),
        ("there are now 41 texts, there were 40.",),
        ("the dimensions is now 6, it was 12.",),
    ]
    for parts, error in zip(wanted, told, strict=True):
        assert "holds the beginning of another job" in error
        assert "remove the folder to start anew, or name another --out" in error
        assert all(part in error for part in parts), error
    assert provider.asked == []
    assert sorted(path.name for path in parts_folder(tmp_path / "pairs.parquet").iterdir()) == kept


@pytest.mark.parametrize(
    ("name", "told"), [("000000000-000000004.npy", "is damaged. Delete it"), ("job.parquet", "is damaged. Remove")]
)
def test_a_damaged_part_is_named(pairs, provider, tmp_path, name, told):
    half_done(pairs, provider)
    part = parts_folder(tmp_path / "pairs.parquet") / name
    if name.endswith(".npy"):
        part.with_name("000000000-000000004.npy").write_bytes(b"\x93NUMPY\x01")
    else:
        part.write_bytes(part.read_bytes()[:50])
    code, _, err = pairs()
    assert code == 1
    assert f"{part} {told}" in err
    if name.endswith(".npy"):
        part.unlink()
        assert pairs()[0] == 0
        check_rows(tmp_path / "pairs.parquet")


def test_a_folder_that_is_in_the_way_is_left_alone(pairs, provider, tmp_path):
    folder = parts_folder(tmp_path / "pairs.parquet")
    folder.mkdir()
    (folder / "000000000-000000004.npy").touch()
    assert "is in the way and has no job.parquet" in pairs()[2]
    assert not provider.asked


def test_a_file_that_is_there_is_only_replaced_when_told_to(pairs, provider, tmp_path, lines):
    assert pairs()[0] == 0
    before = (tmp_path / "pairs.parquet").read_bytes()
    provider.asked = []
    lines.write_text("another\n")
    code, out, err = pairs()
    assert (code, out) == (1, "")
    assert "pairs.parquet is there already. Name another --out, or replace it with --force." in err
    assert (provider.asked, (tmp_path / "pairs.parquet").read_bytes()) == ([], before)
    provider.faults = [status(401)]
    assert pairs("--force")[0] == 1
    assert (tmp_path / "pairs.parquet").read_bytes() == before
    assert pairs("--force")[0] == 0
    check_rows(tmp_path / "pairs.parquet", ["another"])


def test_the_output_is_parquet(ea, provider, lines, tmp_path):
    code, _, err = ea("pairs", str(lines), "--target", "toy", "--out", str(tmp_path / "pairs.jsonl"))
    assert code == 1
    assert "has to end in .parquet" in err


class Terminal(io.StringIO):
    """A stdin that someone types at."""

    def isatty(self) -> bool:
        return True


def test_the_cost_is_told_before_it_starts(pairs, provider, monkeypatch):
    monkeypatch.setattr(collecting, "PRICES", {"toy-embedding": 50.0})
    code, out, err = pairs("--dry-run")
    assert (code, out) == (0, "")
    tokens = -(-sum(map(len, TEXTS)) // 4)
    assert err == (
        f"ea-jax: 40 texts; to ask: about {tokens} tokens (an estimate: one is about 4 bytes), "
        f"about ${tokens * 50e-6:.5f} at $50.0 a million (May 2026; --price sets another).\n"
    )
    assert "about $0.68 at $10000.0 a million.\n" in pairs("--dry-run", "--price", "10000")[2]
    assert "at an unknown price" in pairs("--dry-run", "--model", "other")[2]
    assert not provider.asked


def test_above_the_limit_it_asks_first(pairs, provider, monkeypatch):
    dear = ("--price", "100000")
    code, out, err = pairs(*dear)
    assert (code, out) == (1, "")
    assert "above the limit of $1.00, and there is no terminal to ask at: --yes starts anyway" in err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, out, err = pairs(*dear)
    assert (code, out) == (1, "")
    assert "That is above the limit of $1.00. Start? [y/N]" in err
    assert not provider.asked
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    code, out, err = pairs(*dear)
    assert code == 0
    assert out.endswith("pairs.parquet\n")
    assert out.count("\n") == 1


@pytest.mark.parametrize("options", [("--yes",), ("--limit", "50")])
def test_a_larger_limit_or_yes_starts_without_a_question(pairs, options):
    code, _, err = pairs("--price", "100000", *options)
    assert code == 0
    assert "Start?" not in err


def test_duplicates_are_asked_once_and_kept_once(pairs, provider, lines, tmp_path):
    lines.write_text("\n".join(["b", "a", "b", "b"]))
    assert pairs(texts=[lines, lines])[0] == 0
    assert provider.texts == ["b", "a"]
    check_rows(tmp_path / "pairs.parquet", ["b", "a"])
    (tmp_path / "pairs.parquet").unlink()
    assert "2 texts and 6 duplicates, which are left out; to ask" in pairs("--dry-run", texts=[lines, lines])[2]


ROWS = [("a", "g"), ("ü\n2", "h"), ("a", "i")]


@pytest.mark.parametrize("kind", ["rows.parquet", "rows.jsonl", "rows.ndjson.gz"])
def test_groups_are_carried_along_from_columns(pairs, provider, tmp_path, kind):
    table = pa.table({"note": [text for text, _ in ROWS], "group": [group for _, group in ROWS], "z": [1, 2, 3]})
    opener = gzip.open if kind.endswith(".gz") else open
    if kind.endswith(".parquet"):
        parquet.write_table(table, tmp_path / kind)
    else:
        with opener(tmp_path / kind, "wt", encoding="utf-8") as file:
            file.write("\n\n".join(json.dumps(row) for row in table.to_pylist()))
    assert "column text" in pairs(texts=[tmp_path / kind])[2] or "key text" in pairs(texts=[tmp_path / kind])[2]
    assert pairs("--column", "note", texts=[tmp_path / kind])[0] == 0
    found = check_rows(tmp_path / "pairs.parquet", ["a", "ü\n2"])
    assert found.group == ["g", "h"]


def test_stdin_is_read_by_lines(pairs, provider, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\r\nwörld\n"))
    assert pairs(texts=["-"])[0] == 0
    check_rows(tmp_path / "pairs.parquet", ["hello", "wörld"])


def test_requests_hold_no_more_than_the_provider_takes_and_the_longest_text_comes_first():
    texts = ["a" * 100, "b" * (MOST_BYTES - 50), "c", "d" * (2 * MOST_BYTES), "e", "f", "g", "h"]
    done = np.zeros(8, bool)
    done[5] = True
    found = batches(texts, done, 2)
    assert found[0] == range(3, 4)
    assert sorted(found, key=lambda rows: rows.start) == [
        range(1), range(1, 3), range(3, 4), range(4, 5), range(6, 8)
    ]  # fmt: skip
    for rows in found[1:]:
        assert sum(len(texts[row].encode()) for row in rows) <= MOST_BYTES


@pytest.mark.parametrize(("option", "told"), [({"batch_size": 2049}, "from 1 to 2048"), ({"workers": 0}, "1 or more")])
def test_the_library_checks_its_numbers_too(provider, tmp_path, option, told):
    with pytest.raises(BadInput, match=told):
        collect(distinct(["a"]), "toy", tmp_path / "a.parquet", approve=lambda _: True, say=print, **option)


def test_many_parts_become_one_file(provider, tmp_path, monkeypatch):
    monkeypatch.setattr("ea_jax.parts.WRITTEN", 7)
    texts = distinct(TEXTS, [f"g{i % 3}" for i in range(40)])
    out = tmp_path / "deep" / "pairs.parquet"
    options = {"approve": lambda _: True, "say": print, "batch_size": 3}
    assert collect(texts, "openai/toy-embedding", out, **options) == out
    assert check_rows(out).group == texts.group
    assert parquet.ParquetFile(out).num_row_groups == 5


def test_parts_that_overlap_give_each_text_one_row(pairs, provider, tmp_path):
    """Two runs of one job at a time, with requests of different sizes, write such parts."""
    half_done(pairs, provider)
    folder = parts_folder(tmp_path / "pairs.parquet")
    for start, end in ((6, 13), (7, 9), (14, 18)):
        np.save(folder / f"{start:09d}-{end:09d}.npy", np.stack([vector(text) for text in TEXTS[start:end]]))
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def test_a_file_that_appears_meanwhile_is_not_replaced(pairs, provider, tmp_path):
    def appear(handler, body):
        (tmp_path / "pairs.parquet").write_text("of another")
        answer(handler, body)

    provider.faults = [appear]
    code, _, err = pairs()
    assert code == 1
    assert "is there already" in err
    assert (tmp_path / "pairs.parquet").read_text() == "of another"
    assert pairs("--force")[0] == 0
    assert len(provider.asked) == 10
    check_rows(tmp_path / "pairs.parquet")
