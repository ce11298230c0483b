"""Request and result files of OpenAI's Batch API (A13)."""

import base64
import json
import random

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.support.openai_server import vector
from tests.workflows.conftest import TEXTS, check_rows


def request(name: str, texts: str | list[str], **body) -> dict:
    body = {"model": "toy-embedding", "input": texts} | body
    return {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body}


def result(name: str, texts: list[str], seed: int = 0, plain: bool = True, width: int = 12) -> dict:
    """A successful result, its items shuffled."""
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": vector(text, width).tolist()
            if plain
            else base64.b64encode(vector(text, width).tobytes()).decode(),
        }
        for i, text in enumerate(texts)
    ]
    random.Random(seed).shuffle(data)
    body = {"object": "list", "data": data, "model": "toy-embedding", "usage": {"prompt_tokens": 1}}
    return {"id": f"batch_req_{name}", "custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}


def failure(name: str, status: int = 400, message: str = "too long") -> dict:
    body = {"error": {"message": message, "type": "invalid_request_error"}}
    return {"id": f"f_{name}", "custom_id": name, "response": {"status_code": status, "body": body}, "error": None}


EXPIRED = {"code": "batch_expired", "message": "This request could not be executed before the deadline."}
GROUPS = [TEXTS[start : start + 4] for start in range(0, 40, 4)]


@pytest.fixture
def join(ea, tmp_path, provider):
    """Write the files and run `ea-jax pairs` on them: exit code, stdout and stderr."""

    def run(requests: list[dict], *results: list[dict], options=(), target: str = "toy"):
        command = ["pairs", "--target", target, "--out", str(tmp_path / "pairs.parquet"), *options]
        for option, rows in [("--batch-requests", requests), *(("--batch-results", rows) for rows in results)]:
            file = tmp_path / f"{option[2:]}{len(command)}.jsonl"
            file.write_text("\n".join(map(json.dumps, rows)) + "\n")
            command += [option, str(file)]
        return ea(*command)

    return run


@pytest.mark.parametrize("plain", [True, False], ids=["float", "base64"])
def test_shuffled_results_are_joined_by_id_and_index(join, tmp_path, plain):
    requests = [request(f"r{i}", texts) for i, texts in enumerate(GROUPS)]
    results = [result(f"r{i}", texts, seed=i, plain=plain) for i, texts in enumerate(GROUPS)]
    random.Random(0).shuffle(results)
    code, out, err = join(requests, results)
    assert (code, out) == (0, f"{tmp_path / 'pairs.parquet'}\n")
    check_rows(tmp_path / "pairs.parquet")
    assert "40 pairs; 0 requests without vectors" in err
    schema = parquet.read_schema(tmp_path / "pairs.parquet")
    assert schema.metadata[b"ea_jax.model"] == b"toy-embedding"
    assert schema.field("y").type == pa.list_(pa.float32(), 12)
    assert sorted(path.name for path in tmp_path.glob("*.parts")) == []


def test_one_text_a_request_is_joined_too(join, tmp_path):
    code, _, _ = join([request(text, text) for text in TEXTS], [result(text, [text]) for text in reversed(TEXTS)])
    assert code == 0
    check_rows(tmp_path / "pairs.parquet")


def test_failures_are_listed_and_left_out(join, tmp_path):
    requests = [request(f"r{i}", texts) for i, texts in enumerate(GROUPS)]
    results = [result(f"r{i}", texts) for i, texts in enumerate(GROUPS[:7])]
    expired = {"custom_id": "r8", "response": None, "error": EXPIRED}
    code, _, err = join(requests, results, [failure("r7"), expired])
    assert code == 0
    check_rows(tmp_path / "pairs.parquet", TEXTS[:28])
    assert "line 8, r7: status 400, too long" in err
    assert "line 9, r8: status unknown, This request could not be executed before the deadline." in err
    assert "line 10, r9: the result files have no result" in err
    assert "28 pairs; 3 requests without vectors" in err


def test_a_retried_request_counts_once(join, tmp_path):
    code, _, err = join([request("a", ["x"])], [failure("a", 500), result("a", ["x"]), result("a", ["x"])])
    assert code == 0
    assert "0 requests without vectors" in err
    check_rows(tmp_path / "pairs.parquet", ["x"])


def test_repeated_texts_are_kept_once(join, tmp_path):
    code, _, err = join([request("a", ["x", "y"]), request("b", "x")], [result("a", ["x", "y"]), result("b", ["x"])])
    assert code == 0
    assert "2 pairs (1 duplicates are left out)" in err
    check_rows(tmp_path / "pairs.parquet", ["x", "y"])


FAULTS = {
    "all failed": ([request("a", "x")], [failure("a")], "None of the requests has vectors"),
    "another id": ([request("a", "x")], [result("b", ["x"])], "answers 'b', which is in no request file"),
    "a repeated id": ([request("a", "x"), request("a", "y")], [result("a", ["x"])], "repeats the custom_id 'a'"),
    "too few items": ([request("a", ["x", "y"])], [result("a", ["x"])], "a answered with 1 vectors for 2 texts"),
    "token ids": ([request("a", [1, 2])], [result("a", ["x"])], "is not text"),
    "no text": ([request("a", [])], [result("a", ["x"])], "is not text"),
    "a surrogate": ([request("a", "\ud800")], [result("a", ["x"])], "is not text"),
    "truncated": ([request("a", "x", dimensions=8)], [result("a", ["x"], width=8)], "It must be exactly that"),
    "swapped files": ([result("a", ["x"])], [request("a", "x")], "is not a request of the Batch API"),
    "two models": ([request("a", "x"), request("b", "y", model="m")], [result("a", ["x"])], "several models: m, toy"),
    "another width": ([request("a", "x")], [result("a", ["x"], width=8)], "has width 8, but openai/toy-embedding has"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_do_not_fit_are_refused(join, tmp_path, fault):
    requests, results, message = FAULTS[fault]
    code, out, err = join(requests, results)
    assert (code, out) == (1, "")
    assert message in err
    assert not list(tmp_path.glob("pairs.parquet*"))


def test_a_model_of_another_space_is_refused(join, tmp_path):
    requests = [request("a", "x", model="text-embedding-3-small")]
    code, _, err = join(requests, [result("a", ["x"])])
    assert code == 1
    assert "name the model text-embedding-3-small, but the target is openai/toy-embedding" in err


def test_batch_options_go_together(ea, tmp_path, lines):
    for options in (["--batch-requests", str(lines)], ["--batch-results", str(lines)], []):
        code, _, err = ea("pairs", "--target", "toy", "--out", str(tmp_path / "p.parquet"), *options)
        assert code == 2
        assert "--batch-requests" in err


def test_an_existing_file_is_kept(join, tmp_path):
    (tmp_path / "pairs.parquet").write_text("mine")
    code, _, err = join([request("a", "x")], [result("a", ["x"])])
    assert (code, (tmp_path / "pairs.parquet").read_text()) == (1, "mine")
    assert "already exists" in err
    assert join([request("a", "x")], [result("a", ["x"])], options=["--force"])[0] == 0
    check_rows(tmp_path / "pairs.parquet", ["x"])
