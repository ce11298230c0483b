"""Every error that ea_jax raises on purpose. Each message says what, where, and what to do next.

EaJaxError
├── BadInput (ValueError)        the caller's array, text or file is not what the call takes
├── UnknownName (LookupError)    no space, adapter or flavor of that name; the nearest names are listed
├── BadEntry (ValueError)        a registry file is missing a key or contradicts itself
├── CorruptCheckpoint (ValueError)  stored parameters are not the ones that were published
├── BadEncoder (ValueError)      an encoder folder is incomplete, of an unknown kind, or has the wrong weights
├── EncoderNotFound (LookupError)   no folder with the model's weights could be found or fetched
└── FingerprintMismatch (ValueError)  vectors of one encoder meet an adapter that was fitted on another's
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class EaJaxError(Exception):
    """The root: `except EaJaxError` catches all that the library raises on purpose."""


class BadInput(EaJaxError, ValueError):
    """The caller's array, text or file is not what the call takes."""


class UnknownName(EaJaxError, LookupError):
    """No space, adapter or flavor has the given name."""


class BadEntry(EaJaxError, ValueError):
    """A registry file is missing a key or contradicts itself."""


class CorruptCheckpoint(EaJaxError, ValueError):
    """Stored parameters are not the ones that were published."""


class BadEncoder(EaJaxError, ValueError):
    """An encoder folder is incomplete, of an unsupported kind, or holds the wrong weights."""


class EncoderNotFound(EaJaxError, LookupError):
    """No folder with the model's weights could be found or fetched."""


class FingerprintMismatch(EaJaxError, ValueError):
    """Vectors of one encoder meet an adapter that was fitted on another's."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests names: the closest ones, or the first dozen where none is close."""
    known = sorted(set(known))
    if not known:
        return "There are none yet."
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"Known: {', '.join(known[:12])}{more}."


def differences(then: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What was and is of each name whose values differ; of tables, name by name."""
    found = []
    for name in dict.fromkeys([*then, *now]):
        a, b = then.get(name), now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{within}{name} ")
        elif a != b:
            found.append(f"{within}{name} was {a} and is {b}")
    return found
