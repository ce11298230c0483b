"""Composite encoders such as `minilm@0,3,6+wordllama`, built from the encoders of their members."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tokenizers import Tokenizer

from ea_jax.encoders.architectures.composite import Composite, HiddenStates
from ea_jax.encoders.architectures.pooling import Pipeline
from ea_jax.encoders.architectures.static import Static
from ea_jax.encoders.encoder import MAX_WINDOWS, Batch, Collect, Encoder, Tokenized
from ea_jax.encoders.load_folder import load_folder
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.encoders.spec import EncoderSpec, join_prefixes
from ea_jax.errors import BadEncoder, BadInput
from ea_jax.registry.spaces import Member, Space, check_layers
from ea_jax.retrieval.neighbors import unit_rows

STATIC_WEIGHT = 0.7  # length of the block of a static token table; that of a hidden state is 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class CompositeEncoder(Encoder):
    """An encoder that concatenates the embeddings of its members.

    Each member makes its own batches of the same texts, because tokenizers disagree on which texts are similarly long.
    """

    spec: EncoderSpec
    module: Composite
    tokenizer: tuple[Tokenizer, ...]  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def members(self) -> tuple[Encoder, ...]:
        """The members as encoders."""
        parts = zip(self.spec.members, self.module.members, self.tokenizer, strict=True)
        return tuple(Encoder(*part, self.params[f"members_{i}"]) for i, part in enumerate(parts))

    def with_windows(self, max_windows: int = MAX_WINDOWS) -> "CompositeEncoder":
        """Return the composite whose mean-pooled transformers read long texts in at most `max_windows` windows."""
        return join_encoders([_with_windows(member, max_windows) for member in self.members], self.spec.model)

    def tokenize(
        self, texts: Sequence[Any], *, prompt: str | None = None, max_length: int | None = None, start: int = 0
    ) -> Tokenized:
        """Tokenize texts for each member. Members without prompts read the text without a prefix."""
        self.spec.prefix(prompt)
        prompt = prompt or self.spec.default_prompt
        members = tuple(
            member.tokenize(texts, prompt=prompt if member.spec.prompts else None, max_length=max_length, start=start)
            for member in self.members
        )
        truncated = [any(flags) for flags in zip(*(member.truncated for member in members), strict=True)]
        return Tokenized(members[0].ids, truncated, members[0].window, members)

    def pad(self, tokenized: Tokenized) -> Batch:
        """Pad all tokenized texts into one batch for each member, which `apply` takes."""
        pairs = zip(self.members, tokenized.members, strict=True)
        return cast(Batch, tuple(member.pad(part) for member, part in pairs))

    def warm(self, batch_size: int = 1, *, min_tokens: int = 1, max_tokens: int = 512) -> None:
        """Warm each member."""
        for member in self.members:
            member.warm(batch_size, min_tokens=min_tokens, max_tokens=max_tokens)

    def _dispatch(self, tokenized: Tokenized, batch_size: int | None) -> Collect:
        pairs = zip(self.members, tokenized.members, strict=True)
        return partial(_collect, self.module, [member._dispatch(part, batch_size) for member, part in pairs])


def _collect(module: Composite, pending: list[Collect], advance: Callable[[int], None]) -> Float[np.ndarray, "n d"]:
    """Wait for the members and concatenate their blocks. The first member alone reports progress.

    Computes `concatenate_blocks` in NumPy, which needs no program for each number of texts.
    """
    parts = [collect(advance if i == 0 else lambda done: None) for i, collect in enumerate(pending)]
    scaled = [
        weight * unit_rows(block)
        for part, count, weight in zip(parts, module.blocks, module.weights, strict=True)
        for block in np.split(part, count, axis=1)
    ]
    return unit_rows(np.concatenate(scaled, axis=1))


def load_composite(space: Space, members: Sequence[Member], *, dtype: str = "float32") -> CompositeEncoder:
    """Load the encoder of a composite space, each member from its folder.

    Args:
        space: The composite space.
        members: The members of the space, as `list_members` returns them.
        dtype: Dtype of stored and multiplied kernels.

    Raises:
        EncoderNotFound: A member's files cannot be found; the message says how to get them.
        BadEncoder: A member's files are incomplete, unsupported or belong to another model.
        BadInput: A member has no layer of a given number.
    """
    encoders = []
    for member in members:
        encoder = load_folder(find_encoder_folder(member.space), member.space, dtype=dtype)
        encoder = select_layers(encoder, member.layers) if member.layers else encoder
        encoders.append(_with_windows(encoder, MAX_WINDOWS))
    composite = join_encoders(encoders, space.id)
    if composite.spec.width != space.width:
        widths = " + ".join(str(encoder.spec.width) for encoder in encoders)
        raise BadEncoder(
            f"{space.id} has width {space.width}, but its members have widths {widths}. Correct spaces.toml."
        )
    return composite


def select_layers(encoder: Encoder, layers: tuple[int, ...]) -> Encoder:
    """Return an encoder that concatenates mean-pooled hidden states of one forward pass.

    Layers after the last selected one are neither computed nor stored.

    Args:
        encoder: The encoder of a transformer.
        layers: Layer numbers: 0 is the output of the embedding layer, i that of layer i.

    Raises:
        BadInput: The encoder is not a transformer, or has no such layer.
    """
    model = cast(Pipeline, encoder.module).model
    if not hasattr(model, "hidden_states"):
        raise BadInput(f"{encoder.spec.model} is a static token table and has no layers. Name it without @.")
    config, spec = cast(Any, model).config, encoder.spec
    expression = f"{spec.model}@{','.join(map(str, layers))}"
    check_layers(layers, config.num_hidden_layers, spec.model, expression)
    module = HiddenStates(model, layers)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    needed = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]["model"]
    params = {"model": {name: encoder.params["model"][name] for name in needed}}
    width = config.hidden_size * len(layers)
    spec = replace(spec, layers=layers, width=width, pooling="mean", normalize=False, dim=None)
    return Encoder(spec, module, encoder.tokenizer, params)


def join_encoders(encoders: Sequence[Encoder], model: str) -> CompositeEncoder:
    """Join encoders into a composite.

    Each block is scaled before all are concatenated and normalized: to length 0.7 for a static table, to 1 otherwise.

    Args:
        encoders: The members, in order.
        model: Full id of the composite.
    """
    specs = tuple(replace(encoder.spec, weight=_weight(encoder)) for encoder in encoders)
    shortest = min(specs, key=lambda spec: spec.max_length * spec.windows)
    prompted = [dict(spec.prompts) for spec in specs if spec.prompts]
    shared = [name for name in prompted[0] if all(name in prompts for prompts in prompted)] if prompted else []
    spec = EncoderSpec(
        model=model,
        revision="+".join(spec.revision for spec in specs),
        width=sum(spec.width for spec in specs),
        pooling="+".join(spec.pooling for spec in specs),
        normalize=True,
        prompts=tuple((name, join_prefixes(dict(spec.prompts).get(name, "") for spec in specs)) for name in shared),
        dtype=specs[0].dtype,
        max_length=shortest.max_length,
        windows=shortest.windows,
        positions=min(spec.positions for spec in specs),
        pad_id=specs[0].pad_id,
        members=specs,
    )
    module = Composite(
        tuple(encoder.module for encoder in encoders),
        tuple(max(1, len(spec.layers)) for spec in specs),
        tuple(spec.weight for spec in specs),
    )
    params = {f"members_{i}": encoder.params for i, encoder in enumerate(encoders)}
    return CompositeEncoder(spec, module, tuple(encoder.tokenizer for encoder in encoders), params)


def _is_static(encoder: Encoder) -> bool:
    return isinstance(encoder.module, Pipeline) and isinstance(encoder.module.model, Static)


def _weight(encoder: Encoder) -> float:
    return STATIC_WEIGHT if _is_static(encoder) else 1.0


def _with_windows(encoder: Encoder, max_windows: int) -> Encoder:
    """Use windows if possible: a static table reads whole texts anyway, and windows need mean pooling."""
    return encoder if _is_static(encoder) or encoder.spec.pooling != "mean" else encoder.with_windows(max_windows)
