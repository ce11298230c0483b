"""Composite encoders such as `minilm@0,3,6+wordllama`, assembled from the encoders of their members."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tokenizers import Tokenizer

from ea_jax.encoders.architectures.composite import Composite, HiddenStates, concatenate_blocks
from ea_jax.encoders.architectures.pooling import Pipeline
from ea_jax.encoders.architectures.static import Static
from ea_jax.encoders.encoder import WINDOWS, Batch, Encoder, Finish, Tokenized
from ea_jax.encoders.load_folder import load_folder
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.encoders.spec import EncoderSpec, joined_prefix
from ea_jax.errors import BadEncoder, BadInput
from ea_jax.registry.spaces import Member, Space, check_layers

STATIC_WEIGHT = 0.7  # of a static token table, where a hidden state has 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class CompositeEncoder(Encoder):
    """An encoder whose embedding is those of its members, side by side.

    Each member batches the same texts by itself, since tokenizers disagree on which texts are of like length.
    """

    spec: EncoderSpec
    module: Composite
    tokenizer: tuple[Tokenizer, ...]  # pyright: ignore[reportIncompatibleVariableOverride] one for each member

    @property
    def members(self) -> tuple[Encoder, ...]:
        """Its members as encoders."""
        parts = zip(self.spec.members, self.module.members, self.tokenizer, strict=True)
        return tuple(Encoder(*part, self.params[f"members_{i}"]) for i, part in enumerate(parts))

    def with_windows(self, most: int = WINDOWS) -> "CompositeEncoder":
        """The composite whose mean-pooled transformers read long texts in windows, at the most so many."""
        return join_encoders([_windowed(member, most) for member in self.members], self.spec.model)

    def tokenize(
        self, texts: Sequence[Any], *, prompt: str | None = None, max_length: int | None = None, start: int = 0
    ) -> Tokenized:
        """Token ids of each text by member. Members without prompts read the text alone."""
        self.spec.prefix(prompt)
        prompt = prompt or self.spec.default_prompt
        members = tuple(
            member.tokenize(texts, prompt=prompt if member.spec.prompts else None, max_length=max_length, start=start)
            for member in self.members
        )
        cut = [any(flags) for flags in zip(*(member.truncated for member in members), strict=True)]
        return Tokenized(members[0].ids, cut, members[0].window, members)

    def pad(self, tokenized: Tokenized) -> Batch:
        """The tokens of all texts as one padded batch for each member, which `apply` takes."""
        pairs = zip(self.members, tokenized.members, strict=True)
        return cast(Batch, tuple(member.pad(theirs) for member, theirs in pairs))

    def _start(self, tokenized: Tokenized, batch_size: int | None) -> Finish:
        pairs = zip(self.members, tokenized.members, strict=True)
        return partial(_join, self.module, [member._start(theirs, batch_size) for member, theirs in pairs])


def _join(module: Composite, waiting: list[Finish], advance: Callable[[int], None]) -> Float[np.ndarray, "n d"]:
    """Wait for the members, of which the first reports, and put their blocks side by side."""
    parts = [finish(advance if i == 0 else lambda done: None) for i, finish in enumerate(waiting)]
    count = len(parts[0])
    padding = ((0, (1 << max(count - 1, 0).bit_length()) - count), (0, 0))  # few shapes
    padded = [np.pad(part, padding) for part in parts]
    return np.array(concatenate_blocks(padded, module.blocks, module.weights)[:count])


def load_composite(space: Space, members: Sequence[Member], *, dtype: str = "float32") -> CompositeEncoder:
    """Load the encoder of a composite space, its members from their folders.

    Args:
        space: The composite.
        members: What it consists of, as `list_members` gives them.
        dtype: What kernels are stored and multiplied in.

    Raises:
        EncoderNotFound: A member's files are nowhere; the message says how to get them.
        BadEncoder: A member's files are incomplete, unsupported or another model's.
        BadInput: A member lacks a layer.
    """
    encoders = []
    for member in members:
        encoder = load_folder(find_encoder_folder(member.space), member.space, dtype=dtype)
        encoder = select_layers(encoder, member.layers) if member.layers else encoder
        encoders.append(_windowed(encoder, WINDOWS))
    composite = join_encoders(encoders, space.id)
    if composite.spec.width != space.width:
        widths = " + ".join(str(encoder.spec.width) for encoder in encoders)
        raise BadEncoder(f"{space.id} has width {space.width}, but its members make {widths}. Correct spaces.toml.")
    return composite


def select_layers(encoder: Encoder, layers: tuple[int, ...]) -> Encoder:
    """An encoder of mean-pooled hidden states, side by side, in one forward pass up to the last of them.

    Args:
        encoder: A transformer's.
        layers: 0 for the output of the embedding layer, i for that of layer i.

    Raises:
        BadInput: It has no such layer.
    """
    model = cast(Pipeline, encoder.module).model
    if not hasattr(model, "hidden_states"):
        raise BadInput(f"{encoder.spec.model} is a static token table and has no layers. Name it without @.")
    config, spec = cast(Any, model).config, encoder.spec
    written = f"{spec.model}@{','.join(map(str, layers))}"
    check_layers(layers, config.num_hidden_layers, spec.model, written)
    module = HiddenStates(model, layers)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    needed = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]["model"]
    params = {"model": {name: encoder.params["model"][name] for name in needed}}
    width = config.hidden_size * len(layers)
    spec = replace(spec, layers=layers, width=width, pooling="mean", normalize=False, dim=None)
    return Encoder(spec, module, encoder.tokenizer, params)


def join_encoders(encoders: Sequence[Encoder], model: str) -> CompositeEncoder:
    """The composite of some encoders; a static table's block has length 0.7 and all others 1 before the last scaling.

    Args:
        encoders: Its members, in order.
        model: Its full id.
    """
    specs = tuple(replace(encoder.spec, weight=_weight(encoder)) for encoder in encoders)
    least = min(specs, key=lambda spec: spec.max_length * spec.windows)
    prompted = [dict(spec.prompts) for spec in specs if spec.prompts]
    shared = [name for name in prompted[0] if all(name in prompts for prompts in prompted)] if prompted else []
    spec = EncoderSpec(
        model=model,
        revision="+".join(spec.revision for spec in specs),
        width=sum(spec.width for spec in specs),
        pooling="+".join(spec.pooling for spec in specs),
        normalize=True,
        prompts=tuple((name, joined_prefix(dict(spec.prompts).get(name, "") for spec in specs)) for name in shared),
        dtype=specs[0].dtype,
        max_length=least.max_length,
        windows=least.windows,
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


def _weight(encoder: Encoder) -> float:
    static = isinstance(encoder.module, Pipeline) and isinstance(encoder.module.model, Static)
    return STATIC_WEIGHT if static else 1.0


def _windowed(encoder: Encoder, most: int) -> Encoder:
    """With windows where they can be: a static table reads whole texts, and other poolings than the mean have none."""
    static = isinstance(encoder.module, Pipeline) and isinstance(encoder.module.model, Static)
    return encoder if static or encoder.spec.pooling != "mean" else encoder.with_windows(most)
