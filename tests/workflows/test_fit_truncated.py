"""Texts beyond the encoder's limit are counted when pairs are embedded (F21)."""

import logging

import numpy as np

from ea_jax.data.pairs import Pairs
from ea_jax.registry.spaces import find_space
from ea_jax.workflows.fit_entry import _embed


def test_truncated_texts_of_pairs_are_counted_once(minilm, caplog):
    """F21"""
    texts = ["short", "long " * 600, "word " * 700]
    with caplog.at_level(logging.WARNING):
        pairs = _embed(Pairs(np.eye(3, 4, dtype=np.float32), text=texts), "pairs.csv", find_space("minilm"), minilm)
    assert pairs.x.shape == (3, 384)
    assert [record.message for record in caplog.records] == [
        f"pairs.csv: 2 texts are longer than the {minilm.spec.max_length} tokens of {find_space('minilm').id} "
        "and were cut."
    ]
