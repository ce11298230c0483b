"""How fast are texts embedded? Times MiniLM in ea_jax, sentence-transformers, torch and ONNX Runtime in one run.

    pip install '.[bench]'
    python -m benchmarks.speed.encoder ../shared/data

Inputs: one text of 12 tokens, one of 60, 500 AG News rows, and the same rows cut or joined to mixed lengths. Figures
are medians of rounds in which the peers take turns, so that slow changes of the machine affect all alike. Takes a few
minutes.
"""

import gzip
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import readme
from benchmarks.machine import write_json
from ea_jax import load_encoder
from ea_jax.encoders.batching import make_batches
from ea_jax.encoders.encoder import BUDGET
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.registry.spaces import find_space

ROWS = 500
MAX_LENGTH = 256
BATCH = 32


def news(data: Path) -> list[str]:
    """Read title and text of the first rows of AG News."""
    with gzip.open(data / "texts" / "ag_news.jsonl.gz", "rt") as lines:
        rows = [json.loads(next(lines)) for _ in range(ROWS)]
    return [f"{row['title']} {row['text']}" for row in rows]


def mixed(texts: list[str], seed: int = 0) -> list[str]:
    """Return as many texts of 2 to 256 words, with log-uniform lengths."""
    rng, words = random.Random(seed), " ".join(texts).split()
    lengths = [round(2 ** rng.uniform(1, 8)) for _ in texts]
    return [" ".join(words[start : start + n]) for n in lengths for start in [rng.randrange(len(words) - n)]]


def sentence_transformers_peer(folder: Path):
    """sentence-transformers on torch, with its usual call."""
    from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports] (extra: bench)

    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, batch_size=BATCH, normalize_embeddings=True)


def torch_peer(folder: Path):
    """The torch model of transformers, with texts sorted by length and padded by batch."""
    import torch
    import transformers

    tokenizer, model = (cls.from_pretrained(folder) for cls in (transformers.AutoTokenizer, transformers.AutoModel))
    pooled = _pooled(torch, model.eval())

    def embed(texts: list[str]) -> np.ndarray:
        def one(batch: list[str]) -> np.ndarray:
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            with torch.inference_mode():
                return pooled(tokens["input_ids"], tokens["attention_mask"]).numpy()

        return _sorted_batches(texts, one)

    return embed


def export_onnx(folder: Path, scratch: Path) -> dict[str, str]:
    """Export MiniLM with its pooling to ONNX. Returns the files in float32, and in int8 by dynamic quantization."""
    import torch
    import transformers
    from onnxruntime.quantization import quantize_dynamic  # pyright: ignore[reportMissingImports] (extra: bench)

    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    axes = {"ids": {0: "b", 1: "t"}, "mask": {0: "b", 1: "t"}, "y": {0: "b"}}
    names = {"input_names": ["ids", "mask"], "output_names": ["y"], "dynamic_axes": axes}
    files = {name: str(scratch / f"{name}.onnx") for name in ("float32", "int8")}
    torch.onnx.export(_pooled(torch, model), example, files["float32"], dynamo=False, opset_version=17, **names)
    quantize_dynamic(files["float32"], files["int8"])
    return files


def onnx_peer(folder: Path, file: str):
    """ONNX Runtime on an exported graph, and `tokenizers`."""
    import onnxruntime  # pyright: ignore[reportMissingImports] (extra: bench)
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding()

    def one(batch: list[str]) -> np.ndarray:
        encodings = tokenizer.encode_batch(batch)
        ids, mask = (np.asarray([getattr(row, name) for row in encodings]) for name in ("ids", "attention_mask"))
        return np.asarray(session.run(None, {"ids": ids, "mask": mask})[0])

    return lambda texts: _sorted_batches(texts, one)


def _pooled(torch, model):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            hidden, weight = (
                self.model(input_ids=ids, attention_mask=mask).last_hidden_state,
                mask.unsqueeze(-1).float(),
            )
            return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)

    return Pooled()


def _sorted_batches(texts: list[str], one) -> np.ndarray:
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    out = np.zeros((len(texts), 384), np.float32)
    for part in parts:
        out[part] = one([texts[i] for i in part])
    return out


def padding(encode, texts: list[str]) -> dict[str, float]:
    """Measure padded tokens over real ones, and the number of compiled shapes."""
    ids = encode.tokenize(texts).ids
    max_tokens = encode.spec.positions
    batches = make_batches(ids, budget=BUDGET["cpu"], max_rows=BUDGET["cpu"], max_tokens=max_tokens, pad_id=0)
    shapes = [tokens.ids.shape for _, tokens in batches]
    padded = sum(rows * length for rows, length in shapes)
    return {"waste": round(padded / sum(map(len, ids)), 3), "shapes": len(set(shapes))}


def main(data: Path, rounds: int = 2) -> None:
    """Time every peer on every input, compare its vectors with torch's, and write the results."""
    warnings.simplefilter("ignore")
    folder, texts = find_encoder_folder(find_space("minilm")), news(data)
    encode = load_encoder("minilm")
    words = "where can i get a good hamburger near the old"
    inputs = {
        "one text of 12 tokens": [words],
        "one text of 60 tokens": [" ".join([words] * 6)[: len(words) * 6 - 6]],
        "AG News": texts,
        "AG News, mixed lengths": mixed(texts),
    }
    with tempfile.TemporaryDirectory() as scratch:
        files = export_onnx(folder, Path(scratch))
        peers = {
            "sentence-transformers": sentence_transformers_peer(folder),
            "torch": torch_peer(folder),
            "ONNX Runtime": onnx_peer(folder, files["float32"]),
            "ONNX Runtime int8": onnx_peer(folder, files["int8"]),
            "ea_jax float32": load_encoder("minilm", dtype="float32"),
            "ea_jax bfloat16": load_encoder("minilm", dtype="bfloat16"),
            f"ea_jax `minilm-plus` ({encode.spec.dtype}, default)": load_encoder("minilm-plus"),
        }
        figures = {name: _measure(peers, batch, rounds) for name, batch in inputs.items()}
    waste = {name: padding(encode, batch) for name, batch in inputs.items() if len(batch) > 1}
    counts = {name: len(batch) for name, batch in inputs.items()}
    write_json(__file__, {"texts": counts, "padding": waste, "figures": figures})
    print(table(figures, waste))
    readme.update("encoder")


def table(figures: dict[str, dict[str, dict[str, Any]]], waste: dict[str, dict[str, float]]) -> str:
    """Format milliseconds for one text, texts per second for many, and each peer's least cosine to torch's vectors."""
    peers = list(next(iter(figures.values())))
    lines = ["| | " + " | ".join(peers) + " |", "| --- |" + " ---: |" * len(peers)]
    for name, row in figures.items():
        many = name in waste
        cells = [f"{ROWS / f['seconds']:.0f}/s" if many else f"{f['seconds'] * 1e3:.1f} ms" for f in row.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cosines = {peer: [row[peer]["cosine"] for row in figures.values()] for peer in peers}
    least = ["" if None in cosines[peer] else f"{min(cosines[peer]):.6f}" for peer in peers]
    return "\n".join([*lines, "| least cosine to torch | " + " | ".join(least) + " |"])


def _least_cosine(vectors: np.ndarray, expected: np.ndarray) -> float | None:
    """The least cosine of a row to the expected one; None for a composite, whose vectors are wider."""
    return round(float(np.sum(vectors * expected, axis=1).min()), 6) if vectors.shape == expected.shape else None


def _measure(peers: dict, texts: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Measure the median seconds of a call.

    A single text is embedded many times in a peer's turn, and the first calls are discarded: on few cores, the idle
    threads of the previous peer spin for a while and slow the next one down.
    """
    calls, discarded = (1, 0) if len(texts) > 1 else (40, 10)
    expected = peers["torch"](texts)
    vectors = {name: embed(texts) for name, embed in peers.items()}  # also warms up
    times = {name: [] for name in peers}
    for _ in range(rounds):
        for name, embed in peers.items():
            for call in range(calls):
                start = time.perf_counter()
                embed(texts)
                if call >= discarded:
                    times[name].append(time.perf_counter() - start)
    return {
        name: {
            "seconds": round(statistics.median(times[name]), 5),
            "cosine": _least_cosine(vectors[name], expected),
        }
        for name in peers
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
