"""A last layer drawn towards a linear one: far from what was fitted on, where no held-out row judges, that is safer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ea_jax.fitting.splits import LEAST_CHOSEN
from ea_jax.solve import Affine

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
BENT = 6000  # pairs, at which query vectors would do without a linear share
GIVEN = 0.1  # of the held-out rank, for the linear share that few pairs call for
STEPS = 10  # of a linear share, where it may go beyond those; the last bends nothing, and is for hits not fitted on
RIVALS = 5  # rows of a corpus that are next to its best one
LARGELY = 0.5  # of a corpus not fitted on: from there, rivals of a hit are mostly not fitted on either
CORPUS_SIZE = 20_000  # rows of the native corpus that queries will search, where nothing is said of it

Scores = Float[np.ndarray, " q"]


class Mix(NamedTuple):
    """Weights of a body's own layer and of a linear one in their average."""

    own: float
    linear: float


class Drawing(NamedTuple):
    """How a layer is drawn towards a linear one.

    Attributes:
        shares: Of the linear one: those that are tried.
        allows: Whether scores are good enough beside the best ones: the largest such share is taken. None for the best.
    """

    shares: Sequence[float]
    allows: Callable[[Scores, Scores], bool] | None


def within_error(best: Scores, one: Scores) -> bool:
    """Whether what scores fall short of the best is within one standard error of the paired differences.

    Source: Breiman et al. 1984, section 3.4.3.
    """
    cost = best - one
    return bool(cost.mean() <= cost.std() / np.sqrt(len(cost)))


def within_a_tenth(best: Scores, one: Scores) -> bool:
    """Whether scores fall short of the best by less than a tenth."""
    return bool(one.mean() >= (1 - GIVEN) * best.mean())


FAITHFUL = Drawing(SHARES, None)


def drawing_of(pairs: int) -> Drawing:
    """For query vectors: of few pairs, the linear share that they call for, if it does not cost too much.

    In the small corpora that few pairs make, the first is what would be among the first ten of a large one: they
    favour the bent map, which finds more in the first ten, but less first.
    """
    if pairs < LEAST_CHOSEN:
        return Drawing((*SHARES, 1 - pairs / BENT), within_a_tenth)
    return Drawing([tenths / STEPS for tenths in range(STEPS)], within_error)


def share_of(
    a: Float[np.ndarray, "q d_out"],
    b: Float[np.ndarray, "q d_out"],
    score: Callable[[np.ndarray], Scores],
    drawing: Drawing,
) -> float:
    """The linear share that is best held out, or the largest that is good enough.

    Far from what was fitted on, where held-out rows cannot judge, the linear map ranks better.

    Args:
        a: A layer's outputs for held-out rows.
        b: The linear one's.
        score: One number a row of outputs, or of the first of them; larger is better.
        drawing: The shares that are tried, and what one may cost beside the best of them.
    """
    found, best = _scored(a, b, drawing.shares, score)
    if drawing.allows is None:
        return best
    return max(share for share, one in found.items() if drawing.allows(found[best], one))


def unfitted(pairs: int, corpus_size: int) -> float:
    """Share of a corpus that was not fitted on; the pairs are a part of the corpus, or all of it."""
    return 1 - pairs / max(pairs, corpus_size)


def overtaken(p: float) -> float:
    """How often the native top hit was not fitted on while one of its nearest rivals was: p (1 - p^5).

    p is the share of the corpus that was not fitted on.
    """
    return p * (1 - p**RIVALS)


def raised(
    least: float,
    outputs: Float[np.ndarray, "2 q d_out"],
    linear: Float[np.ndarray, "q d_out"],
    score: Callable[[np.ndarray], Scores],
    p: float,
    pairs: int,
) -> float:
    """The linear share for queries whose native top hit is on a par with its rivals, or more if often it is not.

    It is the best one; of few pairs the least, unless it falls short of the best by more than a tenth. Where half of
    the corpus or more was not fitted on, nor were as many rivals of a hit, which these outputs do not tell: there it
    is the smallest one within one standard error of the best.

    Args:
        least: The share where hits and rivals were both fitted on.
        outputs: A kernel machine's outputs for held-out rows, and what they were if it had not seen those hits.
        linear: The linear layer's.
        score: One number a row of outputs, once for all held-out rows and once more; larger is better.
        p: Share of the corpus that was not fitted on.
        pairs: How many pairs were fitted on.
    """
    alone = overtaken(p)
    shares = [least, *(i / STEPS for i in range(STEPS + 1) if i / STEPS > least)]
    weights = np.array([1 - alone, alone])
    a, b = outputs.reshape(-1, outputs.shape[-1]), np.tile(linear, (2, 1))
    found, best = _scored(a, b, shares, lambda rows: weights @ score(rows).reshape(2, -1))
    if pairs < LEAST_CHOSEN:
        return least if within_a_tenth(found[best], found[least]) else best
    if p >= LARGELY:
        return min(share for share, one in found.items() if within_error(found[best], one))
    return best


def _scored(
    a: Float[np.ndarray, "q d_out"],
    b: Float[np.ndarray, "q d_out"],
    shares: Sequence[float],
    score: Callable[[np.ndarray], Scores],
) -> tuple[dict[float, Float[np.ndarray, " s"]], float]:
    """Scores of averages of outputs by the linear share, and the share whose mean score is best."""
    found = {share: score(averaged(a, b, share)[0]) for share in shares}
    return found, max(found, key=lambda share: found[share].mean())


def drawn(
    layer: Affine,
    linear: Affine,
    a: Float[np.ndarray, "q d_out"],
    b: Float[np.ndarray, "q d_out"],
    share: float,
) -> tuple[Affine, Mix, Float[np.ndarray, "q d_out"]]:
    """A layer of features averaged with a linear one of the inputs, which are the first features, by its share.

    Returns:
        The average, the weights of both, the linear layer's outputs being first scaled to the other's length, and the
        average of the outputs a and b of both.
    """
    (outputs, mix), wide = averaged(a, b, share), widened(linear, len(layer.kernel))
    average = [mix.own * p + mix.linear * q for p, q in zip(layer, wide, strict=True)]
    return Affine(*average), mix, outputs.astype(np.float32)


def averaged(
    a: Float[np.ndarray, "q d_out"], b: Float[np.ndarray, "q d_out"], share: float
) -> tuple[Float[np.ndarray, "q d_out"], Mix]:
    """Average of outputs, `share` of it the latter's, scaled to the length of the former; and the weights of both."""
    mix = Mix(1 - share, share * float(np.sqrt(np.mean(np.square(a)) / np.mean(np.square(b)))))
    return mix.own * a + mix.linear * b, mix


def widened(linear: Affine, features: int) -> Affine:
    """An affine map of the inputs as one of features that begin with them."""
    unread = np.zeros((features - len(linear.kernel), linear.kernel.shape[1]))
    return Affine(np.concatenate([linear.kernel, unread]), linear.bias)
