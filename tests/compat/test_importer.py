"""Imported adapters of embedding-adapters, compared with their network rebuilt in torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ea_jax.compat.catalog import public_adapters
from ea_jax.compat.checkpoint import read_checkpoint
from ea_jax.compat.importer import import_adapter
from ea_jax.errors import BadEntry, BadInput, CorruptCheckpoint, UnknownName
from ea_jax.loading import load, load_quality
from ea_jax.quality.threshold import threshold_for
from tests.conftest import TOY_SPACES, unit_rows
from tests.support.hub import files_of, hub


class FFN(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        a, g = self.proj(x).chunk(2, dim=-1)
        return a * nn.functional.gelu(g)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(width) * 0.1)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln, self.ls = nn.LayerNorm(width), Scale(width)
        self.ffn = nn.ModuleList([FFN(width), nn.Linear(4 * width, width)])

    def forward(self, x):
        return x + self.ls.gamma * self.ffn[1](self.ffn[0](self.ln(x)))


class Net(nn.Module):
    """The network that a checkpoint of embedding-adapters holds."""

    def __init__(self, d_in, d_out, width, depth):
        super().__init__()
        self.in_ln, self.in_fc = nn.LayerNorm(d_in), nn.Linear(d_in, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.mid_ln, self.out_fc, self.out_ln = nn.LayerNorm(width), nn.Linear(width, d_out), nn.LayerNorm(d_out)
        for norm in (m for m in self.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1, 0.1)
            nn.init.normal_(norm.bias, 0, 0.1)

    def forward(self, x):
        h = self.in_fc(self.in_ln(x))
        for block in self.blocks:
            h = block(h)
        return nn.functional.normalize(self.out_ln(self.out_fc(self.mid_ln(h))), dim=-1)


CONFIG = {"source_model": "toy/source", "target_model": "toy/target", "in_dim": 8, "out_dim": 12, "normalize": True}


def statistics(seed: int = 0) -> dict[str, np.ndarray]:
    rng, result = np.random.default_rng(seed), {}
    for side, d in {"src": 8, "tgt": 12}.items():
        root = rng.normal(size=(d, d))
        result |= {f"mean_{side}": rng.normal(size=d), f"inv_cov_{side}": root @ root.T + 0.1 * np.eye(d)}
        result |= {f"knn_ref_{side}": unit_rows(rng, 20, d), f"m95_{side}": 3.0, f"m99_{side}": 5.0}
        result |= {f"knn95_{side}": 0.5, f"knn99_{side}": 0.9}
    return {name: np.asarray(value, np.float32) for name, value in result.items()}


def write_adapter(folder: Path, net: nn.Module, config: dict, state=None, stats=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict() if state is None else state, folder / "adapter.pt")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    np.savez(folder / "adapter_quality_stats.npz", **(statistics() if stats is None else stats))
    return folder


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net(8, 12, 16, 2).eval()


@pytest.fixture
def folder(tmp_path, net):
    return write_adapter(tmp_path / "original", net, CONFIG | {"arch": "resmlp_w16_d2_dp0.1_dpr0.1_ls0.0005"})


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "registry"
    root.mkdir()
    (root / "spaces.toml").write_text(TOY_SPACES)
    return root


@pytest.fixture
def known(root, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    return root


def test_an_imported_adapter_matches_the_network(folder, known, net):
    entry = import_adapter(str(folder), known)
    assert entry.name == "toy-a--toy-b--imported"
    x = unit_rows(np.random.default_rng(1), 50, 8)
    expected = net(torch.from_numpy(x)).detach().numpy()
    for purpose in ("store", "query"):
        adapt = load("toy-a", "toy-b", purpose=purpose)
        np.testing.assert_allclose(adapt(adapt.params, x), expected, atol=1e-5)


@pytest.mark.parametrize("wrap", ["plain", "model", "module.", "averaged"])
def test_every_wrapping_of_a_checkpoint_is_read(tmp_path, net, wrap):
    state = net.state_dict()
    wrapped = {
        "plain": state,
        "model": {"model": state, "epoch": 3},
        "module.": {f"module.{name}": value for name, value in state.items()},
        "averaged": {"n_averaged": torch.tensor(5)} | {f"module.{name}": value for name, value in state.items()},
    }[wrap]
    config = CONFIG | {"arch": "resmlp_w16_d2"}
    plain = read_checkpoint(write_adapter(tmp_path / "a", net, config))
    result = read_checkpoint(write_adapter(tmp_path / "b", net, config, wrapped))
    assert result.spec == plain.spec
    np.testing.assert_array_equal(result.params["block_1"]["proj"]["kernel"], plain.params["block_1"]["proj"]["kernel"])


def test_the_default_network_is_as_wide_as_the_target(tmp_path):
    torch.manual_seed(0)
    result = read_checkpoint(write_adapter(tmp_path / "a", Net(8, 12, 12, 8), CONFIG))
    assert dict(result.spec.sizes) == {"width": 12, "depth": 8}


def test_imported_scores_follow_the_original_rule(folder, known):
    import_adapter(str(folder), known)
    quality, x, s = load_quality("toy-a", "toy-b"), unit_rows(np.random.default_rng(1), 30, 8), statistics()
    c = x - s["mean_src"]
    maha = np.sqrt(np.einsum("ni,ij,nj->n", c, s["inv_cov_src"], c))
    knn = np.sqrt(2 - 2 * (x @ s["knn_ref_src"].T).max(axis=1))
    conf_maha, conf_knn = (
        1 / (1 + np.exp(2 * np.log(4) / (p99 - p95) * (d - (p95 + p99) / 2)))
        for d, p95, p99 in ((maha, 3.0, 5.0), (knn, 0.5, 0.9))
    )
    scores = quality(quality.params, x)
    np.testing.assert_allclose(scores.mahalanobis, maha, rtol=1e-4)
    np.testing.assert_allclose(scores.confidence, np.minimum(conf_maha, conf_knn), rtol=1e-3, atol=1e-6)
    assert np.isnan(np.asarray(scores.expected_cosine)).all()
    assert np.isfinite(
        np.asarray(quality.score_target(quality.params, unit_rows(np.random.default_rng(2), 3, 12)).confidence)
    ).all()
    with pytest.raises(BadInput, match="imported"):
        quality.native_similarity(quality.params, np.ones(2, np.float32))
    with pytest.raises(BadInput, match="imported"):
        threshold_for(quality)


def broken(kind: str, net: nn.Module) -> tuple[dict, dict, dict]:
    config, state, stats = CONFIG | {"arch": "resmlp_w16_d2"}, dict(net.state_dict()), statistics()
    if kind == "missing":
        del state["mid_ln.bias"]
    elif kind == "unknown":
        state["extra.weight"] = torch.zeros(2)
    elif kind == "shape":
        config = CONFIG | {"arch": "resmlp_w8_d2"}
    elif kind == "not finite":
        state["in_fc.bias"] = torch.full((16,), float("nan"))
    elif kind == "huge":
        config = CONFIG | {"arch": "resmlp_w1000000_d2"}
    elif kind == "arch":
        config = CONFIG | {"arch": "transformer_w16"}
    elif kind == "width":
        config = CONFIG | {"in_dim": "8"}
    elif kind == "statistics":
        del stats["inv_cov_src"]
    elif kind == "statistics shape":
        stats["knn_ref_tgt"] = stats["knn_ref_tgt"][:, :5]
    elif kind == "objects":
        stats["mean_src"] = np.array([{}], object)
    return config, state, stats


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "lacks mid_ln.bias"),
        ("unknown", "has unknown extra.weight"),
        ("shape", "has shape"),
        ("not finite", "in_fc.bias is not finite"),
        ("huge", "has shape"),
        ("arch", "has the arch 'transformer_w16'"),
        ("width", "wrong type for in_dim"),
        ("statistics", "lacks inv_cov_src"),
        ("statistics shape", "target.references"),
        ("objects", "cannot be read"),
    ],
)
def test_a_broken_adapter_is_refused_whole(tmp_path, known, net, kind, message):
    config, state, stats = broken(kind, net)
    folder = write_adapter(tmp_path / "original", net, config, state, stats)
    with pytest.raises((BadEntry, CorruptCheckpoint), match=message):
        import_adapter(str(folder), known)
    assert not list(known.glob("*/entry.toml"))


def test_a_folder_of_none_or_two_adapters_is_refused(tmp_path, net, folder):
    (folder / "adapter_2.pt").write_bytes(b"")
    with pytest.raises(BadEntry, match=r"holds adapter.pt, adapter_2.pt"):
        read_checkpoint(folder)
    with pytest.raises(BadEntry, match="it holds none"):
        read_checkpoint(tmp_path)


def test_public_adapters_are_listed_and_locked_ones_refused(ea):
    listed = json.loads(ea("list", "--json")[1])
    result = {row["name"]: row for row in listed if "embedding-adapters" in row["tags"]}
    assert len(result) == len({adapter.repo for adapter in public_adapters()}) == 16
    locked = {name for name, row in result.items() if "pro" in row["tags"]}
    assert len(locked) == 9
    assert {row["name"] for row in json.loads(ea("list", "--pro-only", "--json")[1])} == locked
    with pytest.raises(BadInput, match=r"is encrypted: .* `ea-jax fit`"):
        load("gemini-004", "oai-3-small")
    with pytest.raises(BadInput, match="is for subscribers"):
        load("qwen3-0.6b", "oai-3-large")
    with pytest.raises(UnknownName, match="No adapter goes from"):
        load("wordllama", "gemini-004")


def test_the_command_prints_the_entrys_folder(ea, folder, known, tmp_path):
    code, out, err = ea("import", str(folder), "--flavor", "theirs", "--out", str(known))
    assert (code, err) == (0, "")
    assert Path(out.strip()).name == "toy-a--toy-b--theirs"
    code, out, err = ea("import", str(tmp_path / "nowhere at all"))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


@pytest.fixture
def served(folder, known, tmp_path):
    """A hub that has the adapter as `owner/adapter`, and a command that imports a repository from it."""
    with hub() as fake_hub:
        fake_hub.repositories["owner/adapter"] = files_of(folder)
        environment = fake_hub.environment(tmp_path / "home") | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

        def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "ea_jax.cli", *command]
            return subprocess.run(line, env=environment | more, capture_output=True, text=True, check=False)

        yield fake_hub, run


def test_a_repository_is_fetched_and_imported(served, known):
    _, run = served
    result = run("import", "owner/adapter", "--out", str(known))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{known / 'toy-a--toy-b--imported'}\n"
    again = run("import", "owner/adapter", "--out", str(known), HF_HUB_OFFLINE="1")
    assert again.stdout == result.stdout


def test_a_public_adapter_loads_by_name_and_is_fetched_once(tmp_path):
    torch.manual_seed(0)
    listed = next(s for s in public_adapters() if s.target.endswith("3-small") and s.flavor == "medium")
    rng, stats = np.random.default_rng(0), {}
    for side, d in {"src": 384, "tgt": 1536}.items():
        stats |= {f"mean_{side}": np.zeros(d), f"inv_cov_{side}": np.eye(d), f"knn_ref_{side}": unit_rows(rng, 4, d)}
        stats |= {f"{name}_{side}": np.array(1.0 + i) for i, name in enumerate(("m95", "m99", "knn95", "knn99"))}
    models = {"source_model": listed.source, "target_model": listed.target}
    config = CONFIG | models | {"in_dim": 384, "out_dim": 1536, "arch": "resmlp_w16_d2"}
    small = Net(384, 1536, 16, 2).eval()
    code = "import ea_jax, numpy as np; a = ea_jax.load('minilm', 'oai-3-small', flavor='medium'); "
    code += "print(a.spec.family, *np.asarray(a(a.params, np.eye(384, dtype=np.float32)[:1]))[0, :3])"
    with hub() as fake_hub:
        fake_hub.repositories[listed.repo] = files_of(write_adapter(tmp_path / "original", small, config, stats=stats))
        environment = fake_hub.environment(tmp_path / "home") | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        asked = len(fake_hub.requests)
        again = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert len(fake_hub.requests) == asked
    family, *numbers = result.stdout.split()
    assert again.stdout == result.stdout
    assert family == "resmlp"
    expected = small(torch.eye(384)[:1]).detach().numpy()[0, :3]
    np.testing.assert_allclose(np.array(numbers, np.float64), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gated", "owner/adapter is gated: accept its terms"),
        ("missing", "neither a folder here nor a repository on the hub"),
        ("cut", "owner/adapter could not be fetched from the hub"),
        ("encrypted", "owner/adapter has no adapter*.pt"),
    ],
)
def test_a_failed_download_is_one_sentence_and_writes_nothing(served, known, fault, message):
    fake_hub, run = served
    if fault == "encrypted":
        del fake_hub.repositories["owner/adapter"]["adapter.pt"]
    else:
        fake_hub.faults["owner/adapter"] = fault
    result = run("import", "owner/adapter", "--out", str(known), HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr.splitlines()[-1]
    assert not list(known.glob("*/entry.toml"))


@pytest.mark.slow
def test_a_network_of_the_published_size_matches_torch(tmp_path, monkeypatch):
    torch.manual_seed(0)
    big = Net(384, 1536, 1536, 8).eval()
    rng = np.random.default_rng(0)
    stats = {}
    for side, d in {"src": 384, "tgt": 1536}.items():
        stats |= {f"mean_{side}": np.zeros(d), f"inv_cov_{side}": np.eye(d), f"knn_ref_{side}": unit_rows(rng, 4, d)}
        stats |= {f"{name}_{side}": np.array(1.0 + i) for i, name in enumerate(("m95", "m99", "knn95", "knn99"))}
    config = {
        "source_model": "sentence-transformers/all-MiniLM-L6-v2",
        "target_model": "openai/text-embedding-3-small",
        "in_dim": 384,
        "out_dim": 1536,
        "arch": "resmlp_w1536_d8_dp0.1_dpr0.1_ls0.0005",
    }
    folder = write_adapter(tmp_path / "original", big, config, stats=stats)
    import_adapter(str(folder), tmp_path / "registry")
    adapt = load("minilm", "oai-3-small", flavor="imported", root=tmp_path / "registry")
    x = unit_rows(rng, 16, 384)
    with torch.inference_mode():
        expected = big(torch.from_numpy(x)).numpy()
    assert np.abs(np.asarray(adapt(adapt.params, x)) - expected).max() < 1e-5
