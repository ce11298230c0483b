import json

import numpy as np
import pytest

from ea_jax.errors import BadInput
from ea_jax.loading import load_quality
from ea_jax.quality.drift import baseline_scores, drift, monitored_scores, out_of_domain_fraction, stability_index
from ea_jax.quality.scores import Scores
from tests.conftest import toy_pairs, unit_rows


def test_the_stability_index_agrees_with_its_formula():
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=1000), rng.normal(0.5, 1, size=400)
    edges = np.quantile(before, np.arange(1, 10) / 10)
    p = (np.histogram(before, [-np.inf, *edges, np.inf])[0] + 0.5) / 1005
    q = (np.histogram(now, [-np.inf, *edges, np.inf])[0] + 0.5) / 405
    assert stability_index(before, now) == pytest.approx(np.sum((q - p) * np.log(q / p)))
    assert stability_index(before, before) == 0
    assert stability_index(np.ones(100), np.ones(50)) < 0.01


def test_equal_distributions_are_stable_and_others_have_shifted():
    rng = np.random.default_rng(0)
    before = {"confidence": rng.normal(size=2000)}
    same, moved = ({"confidence": rng.normal(shift, 1, size=500)} for shift in (0, 1))
    assert drift(before, same)["confidence"].verdict == "stable"
    shift = drift(before, moved)["confidence"]
    assert shift.verdict == "large shift"
    assert shift.p_value < 1e-6
    assert shift.now == pytest.approx(shift.before + 1, abs=0.2)


def test_too_few_scores_are_refused():
    with pytest.raises(BadInput, match="There are 3 scores"):
        drift({"confidence": np.zeros(100)}, {"confidence": np.zeros(3)})


def test_distant_rows_and_junk_are_out_of_domain():
    good, bad = np.full(3, 0.9), np.array([0.9, 0.1, 0.9])
    scores = Scores(good, good, good, bad, np.array([0.1, 0.1, 0.95]), good, good, good)
    assert out_of_domain_fraction(scores) == pytest.approx(2 / 3)


def test_constant_inputs_have_shifted(toy_root):
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    now = monitored_scores(quality(quality.params, np.tile(toy_pairs()[0][:1], (50, 1))))
    constant = drift(baseline_scores(quality), now)
    assert all(constant[name].verdict == "large shift" for name in ("mahalanobis", "knn_distance"))
    same = drift(
        baseline_scores(quality), monitored_scores(quality(quality.params, unit_rows(np.random.default_rng(7), 300, 8)))
    )
    assert same["knn_distance"].psi < constant["knn_distance"].psi


@pytest.fixture
def toy_registry(toy_root, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))


def test_the_command_compares_new_vectors_with_the_fit(ea, toy_registry, tmp_path):
    np.save(tmp_path / "new.npy", np.abs(unit_rows(np.random.default_rng(1), 100, 8)))
    code, out, err = ea("drift", "toy-a--toy-b--small", str(tmp_path / "new.npy"), "--json")
    message = json.loads(out)
    assert (code, err) == (0, "")
    assert message["adapter"] == "toy-a--toy-b--small"
    assert message["scores"]["confidence"].keys() >= {"psi", "distance", "p_value", "verdict"}
    assert 0 <= message["outside"] <= 1


def test_the_command_compares_two_files(ea, toy_registry, tmp_path):
    for name in ("old", "new"):
        np.save(tmp_path / f"{name}.npy", toy_pairs()[0])
    arguments = "drift", str(tmp_path / "old.npy"), str(tmp_path / "new.npy")
    code, out, _ = ea(*arguments, "--source", "toy-a", "--target", "toy-b")
    assert code == 0
    assert out.count("stable") == 5
    assert "out of domain" in out
    code, out, err = ea(*arguments)
    assert (code, out) == (2, "")
    assert "--source and --target" in err


def test_the_command_embeds_texts(ea, minilm, tmp_path):
    (tmp_path / "new.txt").write_text("\n".join(f"What is the capital of country {i}?" for i in range(30)))
    code, out, _ = ea("drift", "minilm--oai-3-small--small", str(tmp_path / "new.txt"))
    assert code == 0
    assert "knn_distance" in out


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [
        ("wide.npy", np.ones((30, 9), np.float32), "width 8"),
        ("flat.npy", np.ones(30, np.float32), "one vector a row"),
        ("whole.npy", np.ones((30, 8), int), "the vector has length 2.828"),
        ("nan.npy", np.full((30, 8), np.nan, np.float32), "row 0: a number of the vector is null, not finite"),
    ],
)
def test_bad_vectors_are_one_line(ea, toy_registry, tmp_path, name, made, message):
    np.save(tmp_path / name, made)
    code, out, err = ea("drift", "toy-a--toy-b--small", str(tmp_path / name))
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
