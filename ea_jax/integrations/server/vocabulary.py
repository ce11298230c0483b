"""Count and decode OpenAI's tokens, if tiktoken and its vocabulary file are on this machine."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
MAX_TOKENS = 8192  # in a text


class Vocabulary(NamedTuple):
    """A tiktoken encoding."""

    encoding: Any

    def count(self, text: str) -> int:
        """Count the tokens of a text like OpenAI."""
        return len(self.encoding.encode(text, disallowed_special=()))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids to a text.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        try:
            return b"".join(self.encoding.decode_single_token_bytes(token) for token in ids).decode(errors="replace")
        except (KeyError, OverflowError) as error:
            raise ValueError("a token id is not in the vocabulary of this model.") from error


@cache
def find_vocabulary(model: str) -> Vocabulary | None:
    """Find the vocabulary of an OpenAI model, without a download. None if tiktoken or its file is missing."""
    try:
        import tiktoken  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    name = tiktoken.model.MODEL_TO_ENCODING.get(model)
    if name is None or not _is_stored(name):
        return None
    return Vocabulary(tiktoken.get_encoding(name))


def _is_stored(name: str) -> bool:
    """Whether the file is in tiktoken's cache; tiktoken would download a missing file."""
    default = Path(tempfile.gettempdir()) / "data-gym-cache"
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR") or default
    return (Path(folder) / hashlib.sha1(ADDRESS.format(name).encode()).hexdigest()).is_file()
