"""Errors that ea_jax raises on purpose, grouped by what the caller can do about them.

EaJaxError
├── BadInput (ValueError)                       correct the argument, array or file that the message names
│   ├── UnknownName (LookupError)               no space, adapter, flavor or prompt has this name; similar names follow
│   └── BadEncoder                              the encoder folder is incomplete, unsupported, or has other weights
├── Conflict (BadInput)                         name another output, wait, or ask for a replacement
│   └── FingerprintMismatch                     the vectors and the adapter belong to different encoders
├── Unavailable (BadInput)                      try again later: the network, the hub or an endpoint failed
│   ├── EncoderNotFound (LookupError)           the model's files are not on this machine and cannot be downloaded
│   └── StoreUnavailable                        a vector store is down, locked or read-only, or rejects the password
├── MissingDependency (BadInput, ImportError)   install the extra that the message names
└── Corrupt (ValueError)                        download or restore the file that the message names
    ├── BadEntry                                a registry file lacks a key or contradicts itself
    └── CorruptCheckpoint                       stored parameters differ from the published ones

`Conflict`, `Unavailable` and `MissingDependency` are also `BadInput`, which ea_jax 0.1 raised in their place. An
`except` clause for one of them comes before one for `BadInput`.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class EaJaxError(Exception):
    """Base class of every error that ea_jax raises on purpose."""


class BadInput(EaJaxError, ValueError):
    """An argument, array, text or file is not what the call takes."""


class UnknownName(BadInput, LookupError):
    """No space, adapter, flavor or prompt has the given name."""


class BadEncoder(BadInput):
    """An encoder folder is incomplete, of an unsupported kind, or holds the wrong weights."""


class Conflict(BadInput):
    """The output exists, is locked by another process, or belongs to another job."""


class FingerprintMismatch(Conflict):
    """The vectors come from one encoder, and the adapter was fitted on another's."""


class Unavailable(BadInput):
    """The network, the hub, an endpoint or the disk cannot serve the request now."""


class EncoderNotFound(Unavailable, LookupError):
    """The model's files are neither on this machine nor can they be downloaded."""


class StoreUnavailable(Unavailable):
    """A vector store is down, locked or read-only, or rejects the password."""


class MissingDependency(BadInput, ImportError):
    """An optional package is not installed. The message names the extra to install."""


class Corrupt(EaJaxError, ValueError):
    """A stored file is damaged, or is not what was published."""


class BadEntry(Corrupt):
    """A registry file lacks a key or contradicts itself."""


class CorruptCheckpoint(Corrupt):
    """Stored parameters differ from the published ones."""


def suggest_names(name: str, known: Iterable[str]) -> str:
    """Suggest the known names that resemble a name, or the first dozen if none does."""
    known = sorted(set(known))
    if not known:
        return "There are none yet."
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"Known: {', '.join(known[:12])}{more}."


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Describe each value that changed between two mappings, recursively.

    Args:
        then: The earlier mapping.
        now: The later mapping.
        prefix: Path of both mappings inside the outermost one.
    """
    changes = []
    for name in dict.fromkeys([*then, *now]):
        a, b = then.get(name), now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += describe_differences(a, b, f"{prefix}{name} ")
        elif a != b:
            changes.append(f"{prefix}{name} was {a} and is {b}")
    return changes
