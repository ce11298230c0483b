"""What else turns vectors of one space into those of another: the rivals of the family benchmark.

`PEERS[name](x, y, seed)` gives a `Peer`. The closed forms take their settings from a tenth of the pairs that is held
out; the networks, in torch, stop by one.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ea_jax.solve import Affine, covariance, mean_only, moments, procrustes, ridge

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
HELD_OUT = 0.1
RANK = 64
MLP_WIDTH, MLP_STEPS, MLP_RATE = 256, 3000, 1e-3
RESMLP_WIDTH, RESMLP_DEPTH, RESMLP_STEPS, RESMLP_RATE, RESMLP_DECAY = 256, 2, 2000, 1e-3, 1e-2
LAYER_SCALE, DROPOUT = 5e-4, 0.1  # the seed's own
BATCH = 256
WARM_UP = 50
EVERY, PATIENCE = 20, 10  # steps between looks at the held-out tenth (an epoch, if that is longer), looks without gain

Apply = Callable[[np.ndarray], np.ndarray]
Solver = Callable[[np.ndarray, np.ndarray, int], tuple[Apply, int]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Peer(NamedTuple):
    """A fitted rival: `apply` maps rows; `parameters` are numbers that it stores, `seconds` what the fit took."""

    name: str
    apply: Apply
    parameters: int
    seconds: float


def held_out(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on, and a tenth to choose by."""
    order = np.random.default_rng([seed, 1]).permutation(n)
    kept = max(1, round(HELD_OUT * n))
    return order[kept:], order[:kept]


def _affine(affine: Affine) -> tuple[Apply, int]:
    kernel, bias = affine.kernel.astype(np.float32), affine.bias.astype(np.float32)
    return lambda x: x @ kernel + bias, kernel.size + bias.size


def _mean(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Apply, int]:
    """The mean target, whatever comes in."""
    bias = mean_only(covariance(moments(x, y))).bias.astype(np.float32)
    return lambda x: np.tile(bias, (len(x), 1)), bias.size


def _procrustes(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Apply, int]:
    """Centred orthogonal Procrustes, the centred part scaled to the target's own length."""
    return _affine(procrustes(covariance(moments(x, y)), "target-length"))


def _best_penalty(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """The penalty of ridge with the largest mean cosine on the held-out tenth."""
    fits, checks = held_out(len(x), seed)
    c = covariance(moments(x[fits], y[fits]))

    def cosine(penalty: float) -> float:
        out = ridge(c, penalty).apply(x[checks])
        return float(np.mean(np.sum(out * y[checks], axis=1) / np.linalg.norm(out, axis=1)))

    return max(PENALTIES, key=cosine)


def _ridge(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Apply, int]:
    return _affine(ridge(covariance(moments(x, y)), _best_penalty(x, y, seed)))


def _reduced_rank(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Apply, int]:
    """Ridge projected on the leading directions of its fitted values: `W V V^T`, V of `W^T C_xx W`.

    Source: Izenman 1975; Mukherjee and Zhu 2011 for the penalty.
    """
    c = covariance(moments(x, y))
    full = ridge(c, _best_penalty(x, y, seed)).kernel
    leading = np.linalg.eigh(full.T @ c.xx @ full)[1][:, -RANK:]
    down, up = (full @ leading).astype(np.float32), leading.T.astype(np.float32)
    bias = (c.y_mean - c.x_mean @ full @ leading @ leading.T).astype(np.float32)
    return lambda x: (x @ down) @ up + bias, down.size + up.size + bias.size


class DriftMLP(nn.Module):
    """One hidden layer between standardised inputs and outputs. Source: Drift-Adapter, arXiv:2509.23471."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        super().__init__()
        self.x_mean, self.x_scale = x.mean(0), x.std(0).mean()
        self.y_mean, self.y_scale = y.mean(0), y.std(0).mean()
        self.hidden = nn.Linear(x.shape[1], MLP_WIDTH)
        self.out = nn.Linear(MLP_WIDTH, y.shape[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raw outputs, in the units of the target."""
        hidden = functional.gelu(self.hidden((x - self.x_mean) / self.x_scale))
        return self.out(hidden) * self.y_scale + self.y_mean


class GEGLU(nn.Module):
    """`a * gelu(g)` of the two halves of a projection."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gated hidden values."""
        a, g = self.proj(x).chunk(2, dim=-1)
        return a * functional.gelu(g)


class Block(nn.Module):
    """`x + gamma * ffn(ln(x))`."""

    def __init__(self, width: int):
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.ffn = nn.Sequential(GEGLU(width, 4 * width), nn.Linear(4 * width, width))
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The residual step."""
        return x + self.gamma * functional.dropout(self.ffn(self.ln(x)), DROPOUT, self.training)


class ResMLP(nn.Module):
    """The architecture of embedding-adapters, at the size that trains here in the time."""

    def __init__(self, d_in: int, d_out: int, width: int = RESMLP_WIDTH, depth: int = RESMLP_DEPTH):
        super().__init__()
        self.in_ln, self.in_fc = nn.LayerNorm(d_in), nn.Linear(d_in, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.mid_ln, self.out_fc, self.out_ln = nn.LayerNorm(width), nn.Linear(width, d_out), nn.LayerNorm(d_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of length one."""
        hidden = self.blocks(self.in_fc(self.in_ln(x)))
        return functional.normalize(self.out_ln(self.out_fc(self.mid_ln(hidden))), dim=-1)


def _cosine_loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 1 - (functional.normalize(out, dim=-1) * y).sum(-1).mean()


def _squared_loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (out - y).square().sum(-1).mean()


def train(model: nn.Module, loss: Loss, x: np.ndarray, y: np.ndarray, seed: int, steps: int, rate: float, decay: float):
    """AdamW with a short warm-up and a cosine decay; the weights that did best on the held-out tenth are kept.

    It ends after `steps`, or after PATIENCE looks without gain: never by the clock, so that a busy machine does not
    change what is learned.
    """
    fits, checks = held_out(len(x), seed)
    rows, wanted, check_rows, check_wanted = map(torch.from_numpy, (x[fits], y[fits], x[checks], y[checks]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * step / steps))
    )
    batches = _batches(len(rows), np.random.default_rng([seed, 2]))
    look = max(EVERY, -(-len(rows) // BATCH))
    best, kept, waited = np.inf, model.state_dict(), 0
    for step in range(1, steps + 1):
        batch = torch.from_numpy(next(batches))
        model.train()
        optimiser.zero_grad()
        loss(model(rows[batch]), wanted[batch]).backward()
        optimiser.step()
        schedule.step()
        if step % look and step < steps:
            continue
        model.eval()
        with torch.inference_mode():
            now = float(loss(model(check_rows), check_wanted))
        if now < best:
            best, waited = now, 0
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            waited += 1
        if waited == PATIENCE:
            break
    model.load_state_dict(kept)
    return model.eval()


def _batches(n: int, rng: np.random.Generator):
    while True:
        order = rng.permutation(n)
        yield from (order[start : start + BATCH] for start in range(0, n, BATCH))


def _network(model: nn.Module, extra: int = 0) -> tuple[Apply, int]:
    def apply(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return functional.normalize(model(torch.from_numpy(x)), dim=-1).numpy()

    return apply, sum(p.numel() for p in model.parameters()) + extra


def _drift_mlp(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Apply, int]:
    torch.manual_seed(seed)
    model = DriftMLP(torch.from_numpy(x), torch.from_numpy(y))
    means = x.shape[1] + y.shape[1]
    return _network(train(model, _squared_loss, x, y, seed, MLP_STEPS, MLP_RATE, 0.0), means)


def _resmlp(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Apply, int]:
    torch.manual_seed(seed)
    model = ResMLP(x.shape[1], y.shape[1])
    return _network(train(model, _cosine_loss, x, y, seed, RESMLP_STEPS, RESMLP_RATE, RESMLP_DECAY))


SOLVERS: dict[str, Solver] = {
    "mean": _mean,
    "procrustes": _procrustes,
    "ridge": _ridge,
    "rank-64": _reduced_rank,
    "mlp-256": _drift_mlp,
    "resmlp": _resmlp,
}


def fit_peer(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Peer:
    """Fit one rival, timed."""
    start = time.perf_counter()
    apply, parameters = SOLVERS[name](x, y, seed)
    return Peer(name, apply, parameters, time.perf_counter() - start)


PEERS = {name: partial(fit_peer, name) for name in SOLVERS}
