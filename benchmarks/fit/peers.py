"""Baselines for the benchmarks: maps between two spaces in closed form (NumPy) and networks (torch).

`PEERS[name](x, y, seed)` fits a baseline and returns the function that maps rows of x to rows of y.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
VALIDATION_SHARE = 0.1
MLP_WIDTH, MLP_STEPS, MLP_RATE = 256, 2000, 1e-3
RESMLP_WIDTH, RESMLP_DEPTH, RESMLP_STEPS, RESMLP_RATE, RESMLP_DECAY = 256, 2, 1000, 1e-3, 1e-2
LAYER_SCALE, DROPOUT = 5e-4, 0.1  # as in embedding_adapters
BATCH = 256
WARM_UP = 50
EVERY, PATIENCE = 20, 10  # steps between validations (an epoch, if that is longer), validations without improvement

Apply = Callable[[np.ndarray], np.ndarray]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def fit_mean(x: np.ndarray, y: np.ndarray, seed: int) -> Apply:
    """Map every input to the mean of y."""
    mean = y.mean(axis=0)
    return lambda x: np.tile(mean, (len(x), 1))


def fit_procrustes(x: np.ndarray, y: np.ndarray, seed: int) -> Apply:
    """Orthogonal Procrustes of the centered rows, scaled so that the outputs have the variance of the targets."""
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    a, b = x - x_mean, y - y_mean
    u, _, vt = np.linalg.svd(a.T @ b, full_matrices=False)
    rotation = u @ vt
    kernel = rotation * np.sqrt(np.square(b).sum() / np.square(a @ rotation).sum())
    return lambda x: (x - x_mean) @ kernel + y_mean


def fit_ridge(x: np.ndarray, y: np.ndarray, seed: int) -> Apply:
    """Ridge regression with the penalty that minimizes the leave-one-out error (PRESS).

    Penalties are in units of the mean eigenvalue of the covariance of x. Source: Allen 1974.
    """
    n, x_mean, y_mean = len(x), x.mean(axis=0), y.mean(axis=0)
    a, b = x - x_mean, y - y_mean
    eigenvalues, u = np.linalg.eigh(np.asarray(a.T @ a / n, np.float64))
    eigenvalues, u = np.maximum(eigenvalues, 0).astype(np.float32), u.astype(np.float32)
    rotated = a @ u
    cross, squares = rotated.T @ b / n, np.square(rotated)

    def coefficients(penalty: float) -> tuple[np.ndarray, np.ndarray]:
        inverse = 1 / (eigenvalues + penalty * eigenvalues.mean())
        return inverse[:, None] * cross, squares @ inverse / n + 1 / n

    def press(penalty: float) -> float:
        beta, leverage = coefficients(penalty)
        return float((np.square(b - rotated @ beta).sum(axis=1) / np.square(1 - leverage)).sum())

    kernel = u @ coefficients(min(PENALTIES, key=press))[0]
    return lambda x: (x - x_mean) @ kernel + y_mean


class DriftMLP(nn.Module):
    """One hidden layer between standardized inputs and outputs. Source: Drift-Adapter, arXiv:2509.23471."""

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
    """Gated GELU unit, `a * gelu(g)`, where a and g are the halves of a projection."""

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
    """The architecture of embedding_adapters, in a size that two cores can train."""

    def __init__(self, d_in: int, d_out: int, width: int = RESMLP_WIDTH, depth: int = RESMLP_DEPTH):
        super().__init__()
        self.in_ln, self.in_fc = nn.LayerNorm(d_in), nn.Linear(d_in, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.mid_ln, self.out_fc, self.out_ln = nn.LayerNorm(width), nn.Linear(width, d_out), nn.LayerNorm(d_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of unit length."""
        hidden = self.blocks(self.in_fc(self.in_ln(x)))
        return functional.normalize(self.out_ln(self.out_fc(self.mid_ln(hidden))), dim=-1)


def _cosine_loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 1 - (functional.normalize(out, dim=-1) * y).sum(-1).mean()


def _squared_loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (out - y).square().sum(-1).mean()


def train(
    model: nn.Module, loss: Loss, x: np.ndarray, y: np.ndarray, *, seed: int, steps: int, rate: float, decay: float
) -> Apply:
    """Train with AdamW, a short warm-up and cosine decay. Keep the weights with the smallest validation loss.

    Training ends after `steps`, or after PATIENCE validations without improvement. It never ends by time, so that a
    busy machine does not change the result. A tenth of the pairs is the validation set.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(x))
    size = max(1, round(VALIDATION_SHARE * len(x)))
    rows, targets, validation_x, validation_y = (
        torch.from_numpy(side[part]) for part in (order[size:], order[:size]) for side in (x, y)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * step / steps))
    )
    batches = _batches(len(rows), np.random.default_rng([seed, 2]))
    interval = max(EVERY, -(-len(rows) // BATCH))
    best, weights, waited = np.inf, model.state_dict(), 0
    for step in range(1, steps + 1):
        batch = torch.from_numpy(next(batches))
        model.train()
        optimizer.zero_grad()
        loss(model(rows[batch]), targets[batch]).backward()
        optimizer.step()
        schedule.step()
        if step % interval and step < steps:
            continue
        model.eval()
        with torch.inference_mode():
            validation_loss = float(loss(model(validation_x), validation_y))
        if validation_loss < best:
            best, waited = validation_loss, 0
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            waited += 1
        if waited == PATIENCE:
            break
    model.load_state_dict(weights)
    model.eval()

    def apply(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    return apply


def _batches(n: int, rng: np.random.Generator):
    while True:
        order = rng.permutation(n)
        yield from (order[start : start + BATCH] for start in range(0, n, BATCH))


def fit_drift_mlp(x: np.ndarray, y: np.ndarray, seed: int) -> Apply:
    """Drift-Adapter's network, trained on the squared error."""
    torch.manual_seed(seed)
    model = DriftMLP(torch.from_numpy(x), torch.from_numpy(y))
    return train(model, _squared_loss, x, y, seed=seed, steps=MLP_STEPS, rate=MLP_RATE, decay=0.0)


def fit_resmlp(x: np.ndarray, y: np.ndarray, seed: int) -> Apply:
    """The network of embedding_adapters in a small size, trained on the cosine."""
    torch.manual_seed(seed)
    model = ResMLP(x.shape[1], y.shape[1])
    return train(model, _cosine_loss, x, y, seed=seed, steps=RESMLP_STEPS, rate=RESMLP_RATE, decay=RESMLP_DECAY)


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, int], Apply]] = {
    "mean": fit_mean,
    "procrustes": fit_procrustes,
    "ridge": fit_ridge,
    "mlp": fit_drift_mlp,
    "resmlp": fit_resmlp,
}
