import json
import re
from itertools import pairwise

import numpy as np
import pytest

from ea_jax.errors import BadEntry, BadInput, EncoderNotFound
from ea_jax.loading import load_encoder
from ea_jax.registry.identification import (
    FILE,
    Signatures,
    confidence_in,
    features,
    identify,
    load_signatures,
    log_odds,
    make_signature,
    reference,
    save_signatures,
)
from tests.conftest import unit_rows

MINILM, WORDLLAMA = "sentence-transformers/all-MiniLM-L6-v2", "dleemiller/word-llama-l2-supercat"
CALIBRATION = np.array([-2.0, -5.0, 2.5])
TEXTS = [
    "Where can I get a hamburger?",
    "The committee published its annual report on coastal erosion.",
    "Can you help me find my keys?",
    "The train to Cologne leaves at eight in the evening.",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "Our quarterly revenue rose by four percent against last year.",
    "Which river flows through the capital of Hungary?",
    "She tuned the old violin before the concert began.",
    "The function returns the sum of its two arguments.",
    "Patients with a fever should drink plenty of water.",
    "How do I reset the password of my account?",
    "The striker scored twice in the last ten minutes.",
    "Mix flour, butter and sugar until the dough is smooth.",
    "The treaty was signed after three years of negotiations.",
    "Is it safe to leave a laptop charging overnight?",
    "A black hole bends the light of the stars behind it.",
    "The landlord must give notice thirty days in advance.",
    "My neighbor's dog barks whenever the mail arrives.",
    "What is the difference between a frog and a toad?",
    "The museum is closed on Mondays and public holidays.",
]
TEXTS += [f"{one} {other}" for one, other in pairwise(TEXTS)]


@pytest.fixture(scope="module")
def texts_of_minilm(minilm):
    return np.asarray(minilm(TEXTS), np.float32)


@pytest.fixture(scope="module")
def texts_of_wordllama():
    try:
        return np.asarray(load_encoder("wordllama")(TEXTS), np.float32)
    except EncoderNotFound as error:
        pytest.skip(str(error))


def toy_space(seed: int, n: int = 400, d: int = 96) -> np.ndarray:
    """Rows around a mean, with six leading directions."""
    rng = np.random.default_rng(seed)
    mean, directions = rng.normal(size=d), 2 * rng.normal(size=(6, d))
    return mean + rng.normal(size=(n, 6)) @ directions * 0.5 + rng.normal(size=(n, d))


@pytest.fixture(scope="module")
def toy_signatures():
    made = {f"toy/{seed}": make_signature([toy_space(seed)[:200]], matryoshka=seed == 0) for seed in range(3)}
    return Signatures(made, CALIBRATION)


@pytest.mark.parametrize("width", [96, 64])
def test_features_are_their_formulas(width):
    signature = make_signature([toy_space(0)], matryoshka=True)
    rows = signature.codes * signature.scale[:, None].astype(float)
    rest = (1 - np.sum(rows**2)) / 96
    rows = rows[: 1 + width // 16, :width]
    m, directions = rows[0], rows[1:]
    covariance = directions.T @ directions + rest * np.eye(width)
    energy = m @ m + np.trace(covariance)
    x = toy_space(0, 50)[:, :width]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    weight = np.linalg.inv(covariance + 3 * np.trace(covariance) / width * np.eye(width)) @ m
    projection = np.linalg.pinv(rows) @ rows
    k = len(rows)
    own = np.trace(projection @ (np.outer(m, m) + covariance)) / energy
    share = np.trace(projection @ (x.T @ x / 50))
    found = features(x.astype(np.float32), reference(signature, width))
    assert found[0] == pytest.approx(x.mean(0) @ weight / (m @ weight) * np.sqrt(energy), rel=1e-4)
    assert found[1] == pytest.approx((share - k / width) / (own - k / width), rel=1e-3)


def test_chance_counts_standard_deviations_over_random_rotations():
    d, rng = 96, np.random.default_rng(0)
    x = unit_rows(rng, 12, d)
    ready = reference(make_signature([toy_space(0)]), d)
    k = ready.basis.shape[1]
    bases = [np.linalg.qr(rng.normal(size=(d, k)))[0].astype(np.float32) for _ in range(500)]
    excess = [np.sum((x @ basis) ** 2) / 12 - k / d for basis in bases]
    found = features(x, ready._replace(basis=bases[np.argmax(excess)]))
    assert np.expm1(found[2]) == pytest.approx(max(excess) / np.std(excess), rel=0.15)


def test_log_odds_fall_with_the_distance_of_the_mean_from_one():
    feature = np.array([[1, 0, 2], [0.5, 0, 2], [1.5, 0, 2], [1, 9, 0]])
    np.testing.assert_allclose(log_odds(feature, CALIBRATION), [3, 0.5, 0.5, -2])


def test_each_space_is_told_by_its_own_rows(toy_signatures):
    for seed in range(3):
        found = identify(toy_space(seed)[200:], toy_signatures)
        assert found.space == f"toy/{seed}"
        assert found.confidence > 0.8
        assert sum(candidate.confidence for candidate in found.candidates) < 1
    assert identify(toy_space(9), toy_signatures).space is None


def test_only_matryoshka_spaces_are_compared_with_narrower_vectors(toy_signatures):
    found = identify(toy_space(0)[200:, :64], toy_signatures)
    assert [candidate.space for candidate in found.candidates] == ["toy/0"]
    assert (found.space, found.candidates[0].width, found.width) == ("toy/0", 96, 64)
    assert identify(toy_space(1)[200:, :64], toy_signatures).space is None


def test_a_source_of_many_rows_does_not_outweigh_the_others():
    few, many = np.eye(64)[:1].repeat(4, 0), np.eye(64)[1:2].repeat(400, 0)
    mean = make_signature([few, many]).codes[0]
    assert mean[1] / mean[0] == pytest.approx(10, abs=0.5)


def test_signatures_are_the_same_after_a_file(toy_signatures, tmp_path):
    path = tmp_path / "signatures.npz"
    save_signatures(path, toy_signatures)
    read = load_signatures(path)
    assert read.spaces.keys() == toy_signatures.spaces.keys()
    for space, signature in read.spaces.items():
        for a, b in zip(signature, toy_signatures.spaces[space], strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(read.calibration, CALIBRATION.astype(np.float32))


def test_a_broken_file_of_signatures_is_one_sentence(tmp_path):
    (tmp_path / "signatures.npz").write_bytes(b"PK")
    with pytest.raises(BadEntry, match="cannot be read"):
        load_signatures(tmp_path / "signatures.npz")


def test_the_bundled_signatures_are_small():
    assert FILE.stat().st_size < 450_000
    for signature in load_signatures().spaces.values():
        assert signature.codes.nbytes + signature.scale.nbytes <= 32_000


@pytest.mark.parametrize("scale", [1, 5, 127])
def test_minilm_is_identified_at_any_length(texts_of_minilm, scale):
    found = identify(scale * texts_of_minilm)
    assert found.space == MINILM
    assert found.length == pytest.approx(scale, rel=1e-3)


def test_wordllama_is_identified(texts_of_wordllama):
    assert identify(texts_of_wordllama).space == WORDLLAMA


@pytest.mark.parametrize("width", [1536, 512, 384])
def test_rows_like_a_signature_are_identified_whole_and_cut(width):
    space, rng = "openai/text-embedding-3-small", np.random.default_rng(0)
    codes, scale, _ = load_signatures().spaces[space]
    mean, *directions = codes * scale[:, None]
    rest = np.sqrt((1 - np.sum((codes * scale[:, None]) ** 2)) / 1536)
    x = mean + rng.normal(size=(100, len(directions))) @ directions + rest * rng.normal(size=(100, 1536))
    found = identify(x[:, :width])
    assert found.space == space
    assert found.candidates[0].mean == pytest.approx(1, abs=0.1)
    assert found.candidates[0].subspace == pytest.approx(1, abs=0.15)


def test_vectors_in_other_coordinates_are_unknown(texts_of_minilm):
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(384, 384)))[0].astype(np.float32)
    for x in (texts_of_minilm @ rotation, texts_of_minilm[:, rng.permutation(384)], -texts_of_minilm):
        found = identify(x)
        assert found.space is None
        assert MINILM in found.reason
        assert confidence_in(MINILM, x) < 0.5


@pytest.mark.parametrize("width", [384, 768, 1024, 1536, 3072, 4096])
def test_random_vectors_are_unknown(width):
    rng = np.random.default_rng(width)
    for x in (rng.normal(size=(40, width)), rng.uniform(size=(40, width))):
        found = identify(x)
        assert found.space is None
        assert found.reason


def test_the_confidence_in_a_named_model(texts_of_minilm):
    assert confidence_in(MINILM, texts_of_minilm) == identify(texts_of_minilm).confidence > 0.5
    assert confidence_in("openai/text-embedding-ada-002", texts_of_minilm) == 0
    assert confidence_in("toy/unknown", texts_of_minilm) is None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.ones((9, 384)), "There are 9 vectors; identification needs at least 10"),
        (np.ones((20, 2)), "have width 2; identification needs at least 64"),
        (np.eye(20, 384)[::-1] * np.arange(20)[:, None], "Row 0 is zero"),
        (np.where(np.eye(20, 384), np.nan, 1), "Row 0 is not finite"),
    ],
)
def test_unusable_vectors_are_refused(made, message):
    with pytest.raises(BadInput, match=message):
        identify(made)


def test_the_command_names_the_model(ea, texts_of_minilm, tmp_path):
    np.save(tmp_path / "vectors.npy", texts_of_minilm)
    code, out, err = ea("identify", str(tmp_path / "vectors.npy"))
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:2] == [MINILM, "384"]
    assert f"Probably {MINILM}. Compared {len(TEXTS)} vectors of width 384 and median length 1." in out
    facts = json.loads(ea("identify", str(tmp_path / "vectors.npy"), "--json")[1])
    assert facts["space"] == facts["candidates"][0]["space"] == MINILM


def test_the_command_says_when_it_cannot_tell(ea, tmp_path):
    for width, message in {
        1024: "the vectors differ from those of every known model of width 1024: BAAI",
        4000: "no known model",
    }.items():
        np.save(tmp_path / "vectors.npy", unit_rows(np.random.default_rng(0), 50, width))
        code, out, err = ea("identify", str(tmp_path / "vectors.npy"))
        assert (code, err) == (0, "")
        assert f"The model is unknown: {message}" in out


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.ones((3, 384), np.float32), "There are 3 vectors"),
        (np.ones((30, 2), np.float32), "have width 2"),
        (np.zeros((30, 384), np.float32), "row 0: .*zero"),
        (np.full((30, 384), np.nan, np.float32), "row 0: .*not finite"),
    ],
)
def test_the_command_refuses_bad_vectors_in_one_line(ea, tmp_path, made, message):
    np.save(tmp_path / "vectors.npy", made)
    code, out, err = ea("identify", str(tmp_path / "vectors.npy"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(message, err)
    assert str(tmp_path / "vectors.npy") in err
