"""What an encoder is: its model, tokens, pooling and members, as facts."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from ea_jax.errors import UnknownName, suggest_names


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder without its parameters, as its folder's files describe it.

    Attributes:
        model: Full id of the model, or the folder's name where it has none.
        revision: First 16 hex digits of the SHA-256 of the weights: the same weights, the same revision.
        width: Width of the embeddings.
        pooling: How token vectors become one, for instance `mean`.
        normalize: Whether embeddings have length one.
        max_length: Tokens, special ones included, after which a text is cut.
        positions: The most tokens that the model can take at all.
        pad_id: Token id that fills the padding.
        prompts: Names and texts of the prefixes that the model was trained with.
        default_prompt: Name of the prompt that is meant where none is named.
        dim: How many leading numbers were asked for; None for all.
        dtype: What kernels are multiplied in.
        lower: Whether texts are lower-cased before the tokenizer sees them.
        special_tokens: Whether the tokenizer adds its special tokens.
        drop_id: A token id that is left out, in tables without a row for unknown tokens.
        token_chars: Where a text is first cut to `max_length` times as many characters, as model2vec does.
        windows: The most windows of `max_length` tokens that a text is read in; what is beyond is cut. With one, a text
            is cut at `max_length`.
        layers: Hidden states that are mean-pooled and put side by side: 0 is the output of the embedding layer, i that
            of layer i. None for the model's ordinary embedding.
        weight: Of a member of a composite: the length of each of its blocks before all are scaled to length one.
        members: Of a composite, its members. `max_length` and `windows` then are those of the member that reads least.
    """

    model: str
    revision: str
    width: int
    pooling: str
    normalize: bool
    max_length: int
    positions: int
    pad_id: int
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None
    dim: int | None = None
    dtype: str = "float32"
    lower: bool = False
    special_tokens: bool = True
    drop_id: int | None = None
    token_chars: int | None = None
    windows: int = 1
    layers: tuple[int, ...] = ()
    weight: float = 1.0
    members: tuple["EncoderSpec", ...] = ()

    def facts(self, prompt: str | None = None) -> dict[str, str | int | bool]:
        """All that shapes a vector, and their `fingerprint`: 16 hex digits that change when one of them does.

        The dtype is not among them: it changes a vector by less than an adapter can tell. The values of a composite's
        members are joined by `+`.
        """
        facts: dict[str, str | int | bool] = {
            "model": self.model,
            "revision": self.revision,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "prefix": self.prefix(prompt),
            "max_length": self.max_length,
        }
        if self.members:
            facts["members"] = "+".join(member.name for member in self.members)
            for name in ("max_length", "windows", "weight"):
                facts[name] = "+".join(str(getattr(member, name)) for member in self.members)
        elif self.windows > 1:
            facts["windows"] = self.windows
        if self.dim:
            facts["dim"] = self.dim
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return facts | {"fingerprint": digest[:16]}

    @property
    def name(self) -> str:
        """The model, with the hidden states that are pooled."""
        return self.model + ("@" + ",".join(map(str, self.layers)) if self.layers else "")

    def prefix(self, prompt: str | None) -> str:
        """The text that a named prompt puts before an input; the default prompt's, or none, for None.

        Of a composite, the texts of its members joined by `+`.

        Raises:
            UnknownName: The model has no prompt of this name.
        """
        prompts, name = dict(self.prompts), prompt or self.default_prompt
        if name is None and self.members:
            return joined_prefix(member.prefix(None) for member in self.members)
        if name is not None and name not in prompts:
            raise UnknownName(f"{self.model} has no prompt named {name!r}. {suggest_names(name, prompts)}")
        return prompts[name] if name is not None else ""


def joined_prefix(prefixes: Iterable[str]) -> str:
    """How the prefixes of a composite's members are recorded; empty where none has one."""
    prefixes = list(prefixes)
    return "+".join(prefixes) if any(prefixes) else ""
