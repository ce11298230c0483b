"""The specification of an encoder: its model, lengths, pooling, prompts and members, and its fingerprint."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from ea_jax.errors import UnknownName, suggest_names


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder without its parameters, as the files of its folder describe it.

    Attributes:
        model: Full id of the model, or the folder's name if the model is unknown.
        revision: First 16 hex digits of the SHA-256 of the weights: equal weights have equal revisions.
        width: Width of the embeddings.
        pooling: How token vectors become one embedding, for instance `mean`; several poolings are joined by `+`.
        normalize: Whether embeddings have unit length.
        max_length: Number of tokens, special tokens included, at which a text is truncated.
        positions: Maximum number of tokens that the model can read.
        pad_id: Token id of the padding.
        prompts: Names and prefixes of the prompts that the model was trained with.
        default_prompt: Name of the prompt that is used if none is named.
        dim: Number of leading coordinates that are kept; None for all.
        dtype: Dtype of the products with kernels.
        lower: Whether texts are lower-cased before they are tokenized.
        special_tokens: Whether the tokenizer adds its special tokens.
        drop_id: A token id that is removed, in tables without a row for unknown tokens.
        token_chars: If given, a text is first truncated to `max_length * token_chars` characters, as model2vec does.
        windows: Maximum number of windows of `max_length` tokens; the rest of a text is truncated. 1 means no windows.
        layers: Hidden states that are mean-pooled and concatenated: 0 is the output of the embedding layer, i that of
            layer i. Empty for the model's ordinary embedding.
        weight: For a member of a composite, the length of each of its blocks before all are normalized together.
        members: The members of a composite. Its `max_length` and `windows` are those of the member that reads least.
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
        """Return everything that determines an embedding, and its `fingerprint` of 16 hex digits.

        The dtype is left out: it changes embeddings by less than matters to an adapter. For a composite, the values of
        its members are joined by `+`.
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
        """The model, followed by the selected hidden states."""
        return self.model + ("@" + ",".join(map(str, self.layers)) if self.layers else "")

    def prefix(self, prompt: str | None) -> str:
        """Return the text that a prompt puts before an input. None means the default prompt, or no prefix without one.

        For a composite, the prefixes of its members are joined by `+`.

        Raises:
            UnknownName: The model has no prompt of this name.
        """
        prompts, name = dict(self.prompts), prompt or self.default_prompt
        if name is None and self.members:
            return join_prefixes(member.prefix(None) for member in self.members)
        if name is not None and name not in prompts:
            raise UnknownName(f"{self.model} has no prompt named {name!r}. {suggest_names(name, prompts)}")
        return prompts[name] if name is not None else ""


def join_prefixes(prefixes: Iterable[str]) -> str:
    """Join the prefixes of a composite's members by `+`; empty if none of them has one."""
    prefixes = list(prefixes)
    return "+".join(prefixes) if any(prefixes) else ""
