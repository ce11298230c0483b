import gzip
import io
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data.partial_pairs import parts_folder
from ea_jax.data.texts import distinct
from ea_jax.errors import BadInput
from ea_jax.workflows import collect_pairs as collecting
from ea_jax.workflows.collect_pairs import MAX_BYTES, collect_pairs, plan_requests
from tests.support.openai_server import answer, vector
from tests.workflows.conftest import TEXTS, check_rows, half_done


def test_the_output_is_parquet(ea, provider, lines, tmp_path):
    code, _, err = ea("pairs", str(lines), "--target", "toy", "--out", str(tmp_path / "pairs.jsonl"))
    assert code == 1
    assert "must end in .parquet" in err


class Terminal(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_cost_is_printed_first(pairs, provider, monkeypatch):
    monkeypatch.setattr(collecting, "PRICES", {"toy-embedding": 50.0})
    code, out, err = pairs("--dry-run")
    assert (code, out) == (0, "")
    tokens = -(-sum(map(len, TEXTS)) // 4)
    assert err == (
        f"ea-jax: 40 texts; to request: about {tokens} tokens (estimated at 4 bytes each), "
        f"about ${tokens * 50e-6:.5f} at $50.0 per million (May 2026; --price sets another).\n"
    )
    assert "about $0.68 at $10000.0 per million.\n" in pairs("--dry-run", "--price", "10000")[2]
    assert "at an unknown price" in pairs("--dry-run", "--model", "other")[2]
    assert not provider.requests


def test_costs_above_the_limit_need_confirmation(pairs, provider, monkeypatch):
    dear = ("--price", "100000")
    code, out, err = pairs(*dear)
    assert (code, out) == (1, "")
    assert "above the limit of $1.00, and there is no terminal for a confirmation. Use --yes to start anyway" in err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, out, err = pairs(*dear)
    assert (code, out) == (1, "")
    assert "That is above the limit of $1.00. Start? [y/N]" in err
    assert not provider.requests
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    code, out, err = pairs(*dear)
    assert code == 0
    assert out.endswith("pairs.parquet\n")
    assert out.count("\n") == 1


@pytest.mark.parametrize("options", [("--yes",), ("--limit", "50")])
def test_a_larger_limit_or_yes_needs_no_confirmation(pairs, options):
    code, _, err = pairs("--price", "100000", *options)
    assert code == 0
    assert "Start?" not in err


def test_duplicates_are_requested_and_kept_once(pairs, provider, lines, tmp_path):
    lines.write_text("\n".join(["b", "a", "b", "b"]))
    assert pairs(texts=[lines, lines])[0] == 0
    assert provider.texts == ["b", "a"]
    check_rows(tmp_path / "pairs.parquet", ["b", "a"])
    (tmp_path / "pairs.parquet").unlink()
    assert "2 texts (6 duplicates are left out); to request" in pairs("--dry-run", texts=[lines, lines])[2]


ROWS = [("a", "g"), ("ü\n2", "h"), ("a", "i")]


@pytest.mark.parametrize("kind", ["rows.parquet", "rows.jsonl", "rows.ndjson.gz"])
def test_groups_are_copied_from_columns(pairs, provider, tmp_path, kind):
    table = pa.table({"note": [text for text, _ in ROWS], "group": [group for _, group in ROWS], "z": [1, 2, 3]})
    opener = gzip.open if kind.endswith(".gz") else open
    if kind.endswith(".parquet"):
        parquet.write_table(table, tmp_path / kind)
    else:
        with opener(tmp_path / kind, "wt", encoding="utf-8") as file:
            file.write("\n\n".join(json.dumps(row) for row in table.to_pylist()))
    assert "Several columns hold strings: note, group" in pairs(texts=[tmp_path / kind])[2]
    assert pairs("--column", "note", texts=[tmp_path / kind])[0] == 0
    result = check_rows(tmp_path / "pairs.parquet", ["a", "ü\n2"])
    assert result.group == ["g", "h"]


def test_stdin_is_read_by_lines(pairs, provider, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\r\nwörld\n"))
    assert pairs(texts=["-"])[0] == 0
    check_rows(tmp_path / "pairs.parquet", ["hello", "wörld"])


def test_requests_respect_limits_and_start_with_the_longest_text():
    texts = ["a" * 100, "b" * (MAX_BYTES - 50), "c", "d" * (2 * MAX_BYTES), "e", "f", "g", "h"]
    done = np.zeros(8, bool)
    done[5] = True
    result = plan_requests(texts, done, 2)
    assert result[0] == range(3, 4)
    assert sorted(result, key=lambda rows: rows.start) == [
        range(1), range(1, 3), range(3, 4), range(4, 5), range(6, 8)
    ]  # fmt: skip
    for rows in result[1:]:
        assert sum(len(texts[row].encode()) for row in rows) <= MAX_BYTES


@pytest.mark.parametrize(
    ("option", "message"), [({"batch_size": 2049}, "from 1 to 2048"), ({"workers": 0}, "1 or more")]
)
def test_the_library_checks_its_numbers(provider, tmp_path, option, message):
    with pytest.raises(BadInput, match=message):
        collect_pairs(distinct(["a"]), "toy", tmp_path / "a.parquet", approve=lambda _: True, **option)


def test_many_parts_become_one_file(provider, tmp_path, monkeypatch):
    monkeypatch.setattr("ea_jax.data.partial_pairs.ROWS", 7)
    texts = distinct(TEXTS, [f"g{i % 3}" for i in range(40)])
    out = tmp_path / "deep" / "pairs.parquet"
    options = {"approve": lambda _: True, "batch_size": 3}
    assert collect_pairs(texts, "openai/toy-embedding", out, **options) == out
    assert check_rows(out).group == texts.group
    assert parquet.ParquetFile(out).num_row_groups == 5


def test_overlapping_parts_give_each_text_one_row(pairs, provider, tmp_path):
    """Two simultaneous runs of a job with different request sizes write overlapping parts."""
    half_done(pairs, provider)
    folder = parts_folder(tmp_path / "pairs.parquet")
    for start, end in ((6, 13), (7, 9), (14, 18)):
        np.save(folder / f"{start:09d}-{end:09d}.npy", np.stack([vector(text) for text in TEXTS[start:end]]))
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def test_a_file_created_meanwhile_is_not_replaced(pairs, provider, tmp_path):
    def appear(handler, body):
        (tmp_path / "pairs.parquet").write_text("of another")
        answer(handler, body)

    provider.faults = [appear]
    code, _, err = pairs()
    assert code == 1
    assert "already exists" in err
    assert (tmp_path / "pairs.parquet").read_text() == "of another"
    assert pairs("--force")[0] == 0
    assert len(provider.requests) == 10
    check_rows(tmp_path / "pairs.parquet")
