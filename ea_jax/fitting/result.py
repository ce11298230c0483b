"""The result of `fit`."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ea_jax.adapters.adapter import Adapter, forward
from ea_jax.adapters.families import build
from ea_jax.adapters.quantization import dequantize
from ea_jax.adapters.spec import Purpose, Spec
from ea_jax.quality.schema import prepare_quality
from ea_jax.quality.scores import Quality
from ea_jax.typing import ArrayIn, Params, leaf_paths

BLOCK = 8192  # rows a call


@dataclass(frozen=True)
class Fitted:
    """The result of `fit`.

    Attributes:
        family: Adapter family.
        sizes: The family's widths and counts.
        params: The parameters as a registry entry stores them: an output layer `out` for each purpose, int8 codes.
        quality_params: The quality part as a registry entry stores it.
        report: Numbers of pairs, chosen hyperparameters, and metrics of held-out queries.
    """

    family: str
    sizes: dict[str, int]
    params: Params
    quality_params: Params
    report: dict[str, Any]

    def apply(self, x: Float[ArrayIn, "n d_in"], purpose: Purpose = "store") -> Float32[np.ndarray, "n d_out"]:
        """Map source embeddings to unit-length outputs, in blocks."""
        adapter = self.adapter(purpose)
        module = build(adapter.spec)
        blocks = [np.asarray(x[i : i + BLOCK], np.float32) for i in range(0, len(x), BLOCK)]
        return np.concatenate([np.asarray(forward(module, adapter.params, block)) for block in blocks])

    def adapter(self, purpose: Purpose = "store") -> Adapter:
        """The adapter for a purpose. Its spec does not name the models."""
        params = dequantize(self.params | {"out": self.params["out"][purpose]})
        return Adapter(replace(self._spec, purpose=purpose), params)

    @property
    def quality(self) -> Quality:
        """The quality part: `fitted.quality(fitted.quality.params, x)`. It can be the prior of another fit."""
        return Quality(self._spec, {**prepare_quality(self.quality_params), "adapter": self.adapter().params})

    @property
    def parameters(self) -> int:
        """Number of parameters of the adapter for one purpose."""
        return sum(leaf.size for leaf in leaf_paths(self.adapter().params).values())

    @property
    def _spec(self) -> Spec:
        d_in, d_out = len(self.quality_params["mean"]), len(self.params["out"]["store"]["bias"])
        return Spec(self.family, "", "", d_in, d_out, sizes=tuple(sorted(self.sizes.items())))
