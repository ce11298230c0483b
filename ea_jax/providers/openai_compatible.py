"""An OpenAI-compatible endpoint: texts to checked vectors, asked again while it is busy or away."""

import base64
import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float32

from ea_jax.data.texts import quoted
from ea_jax.errors import BadInput, MissingDependency, Unavailable
from ea_jax.registry.spaces import Space

KEY = "OPENAI_API_KEY"
ADDRESS = "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"
TIMEOUT = 120.0  # seconds, of one request
TRIES = 8  # of one request
FIRST_WAIT = 1.0  # seconds; each further wait is twice as long
LONGEST_WAIT = 60.0
PATIENCE = 900.0  # the longest wait that a provider may ask for
TRANSIENT = {408, 409, 429}  # and all from 500 on
SPENT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
AGAIN = "What is done is kept: run the same command again to go on."


class Answer(NamedTuple):
    """Vectors of the texts of one request, in their order, and the tokens that the provider counted."""

    vectors: Float32[np.ndarray, "n d"]
    tokens: int


def base_address(base_url: str | None) -> str | None:
    """The endpoint that was named: `base_url`, or else that of the environment.

    Raises:
        BadInput: It is no http address.
    """
    address = base_url or os.environ.get(ADDRESS, "").strip() or None
    try:
        good = address is None or (urlsplit(address).scheme in ("http", "https") and urlsplit(address).hostname)
    except ValueError:
        good = False
    if not good:
        raise BadInput("The endpoint's address is no http address; it looks like http://localhost:8080/v1.")
    return address


def open_client(base_url: str | None = None) -> Any:
    """A client of the `openai` package, with the key from the environment.

    It does not try again by itself. `Endpoint` does, because it also waits where Retry-After is above the client's cap,
    stops at once where the account is empty, says what it waits for, and ends its waits when another request failed.

    Raises:
        MissingDependency: The package is not installed.
        BadInput: There is no key, or the address is no http address.
    """
    try:
        from openai import OpenAI
    except ImportError as error:
        raise MissingDependency(
            "Asking a provider needs the openai client, which is not installed: pip install 'ea_jax[openai]'."
        ) from error
    address = base_address(base_url) or OPENAI
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise BadInput(f"There is no key: set {KEY} (to anything, where {_host(address)} asks for none).")
    if not (key.isascii() and key.isprintable()):
        raise BadInput(f"{KEY} holds characters that no key has. Copy the key again.")
    return OpenAI(api_key=key, base_url=address, max_retries=0, timeout=TIMEOUT)


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One model of one provider, for one space.

    Attributes:
        client: An `openai.OpenAI`.
        model: The provider's name of the model.
        space: Which space the vectors have to be of.
        dimensions: The width to ask for; None leaves it to the model.
        say: Told of every wait.
        stop: Once set, waits end and nothing more is asked.
    """

    client: Any
    model: str
    space: Space
    dimensions: int | None
    say: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        """The provider's name in messages."""
        return _host(str(self.client.base_url))

    def embed(self, texts: Sequence[str], first: int = 0) -> Answer | None:
        """Vectors of texts, checked; None where `stop` was set before there were any.

        Args:
            texts: At most as many as one request takes.
            first: The first one's number, for errors.

        Raises:
            Unavailable: The provider stays busy or away, or its vectors are zero or not finite.
            BadInput: The provider refuses the request, or answers with something else than vectors of the space.
        """
        found = self._ask(list(texts), first)
        if found is None:
            return None
        usage = getattr(getattr(found, "usage", None), "prompt_tokens", None)
        vectors = check_vectors(found.data, len(texts), self.space, f"{self.host}, model {self.model}", first)
        return Answer(vectors, usage if isinstance(usage, int) else 0)

    def _ask(self, texts: list[str], first: int) -> Any:
        """The provider's answer, which has a list of data; None once `stop` is set."""
        import openai

        why = ""
        for attempt in range(TRIES):
            if self.stop.is_set():
                return None
            wait = None
            try:
                found = self._create(texts)
                if isinstance(getattr(found, "data", None), list):
                    return found
                why = "its answer has no vectors"
            except openai.APIStatusError as error:
                if refusal := self._refusal(error, texts, first):
                    raise BadInput(refusal) from None  # the cause can quote the key
                why, wait = f"it answered with status {error.status_code}", retry_after(error.response.headers)
            except openai.APITimeoutError:
                why = f"it did not answer within {TIMEOUT:.0f} s"
            except openai.APIConnectionError:
                why = "the connection failed"
            except ValueError:
                why = "its answer is cut short, or no JSON"
            if attempt < TRIES - 1:
                self._pause(why, wait, attempt)
        raise Unavailable(f"{self.host} gave no vectors in {TRIES} tries; at last, {why}. {AGAIN}")

    def _create(self, texts: list[str]) -> Any:
        # base64 is exact float32, and what the client asks for by itself: a server that knows the client knows it.
        width = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return self.client.embeddings.create(model=self.model, input=texts, encoding_format="base64", **width)

    def _pause(self, why: str, asked: float | None, attempt: int) -> None:
        """Wait as long as the provider asks, or else twice as long each time, and up to a quarter more by chance."""
        if asked is not None and asked > PATIENCE:
            raise Unavailable(f"{self.host} asks to be left alone for {asked / 60:.0f} minutes. {AGAIN}")
        wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) if asked is None else asked
        wait *= 1 + random.random() / 4
        self.say(f"{self.host}: {why}; asking again in {wait:.1f} s")
        self.stop.wait(wait)

    def _refusal(self, error: Any, texts: list[str], first: int) -> str | None:
        """What to tell of a status that asking again will not mend; None where it may."""
        status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
        said = str(body.get("message") or body.get("detail") or error.body or "no reason given")
        said = " ".join(said.replace(self.client.api_key, "…").split())[:300].rstrip(".")
        if status == 401:  # what is said quotes the key
            return f"{self.host} refuses the key (401). Put a valid one into {KEY}."
        if status == 403:
            return f"{self.host} does not let this key use {self.model} (403): {said}. Check the key's rights."
        if status == 404:
            return (
                f"{self.host} has no {self.model} (404): {said}. Check --model and --base-url, which often ends in /v1."
            )
        if status == 429 and SPENT & {str(body.get("code")), str(body.get("type"))}:
            return f"The account at {self.host} has nothing left to spend (429). Top it up. {AGAIN}"
        if status in TRANSIENT or status >= 500:
            return None
        longest = max(range(len(texts)), key=lambda row: len(texts[row]))
        return (
            f"{self.host} refuses a request of {len(texts)} texts ({status}): {said}. The longest of them is text "
            f"{first + longest} with {len(texts[longest]):,} characters: {quoted(texts[longest])}."
        )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, of a number or a date; None where it says nothing that can be read."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def check_vectors(data: list[Any], count: int, space: Space, where: str, first: int) -> Float32[np.ndarray, "n d"]:
    """The vectors of an answer, in the order of the texts.

    Raises:
        BadInput: There are more or fewer than texts; one is of another width, or not of length one in a space where all
            are.
        Unavailable: One is not finite, or zero.
    """
    if len(data) != count:
        raise BadInput(f"{where} answered with {len(data)} vectors for {count} texts. Is it an embeddings endpoint?")
    order = {item.index: item for item in data if isinstance(getattr(item, "index", None), int)}
    if set(order) != set(range(count)):
        raise BadInput(f"{where} answered with indices that are not those of the texts. Is it OpenAI-compatible?")
    rows = [_vector(getattr(order[row], "embedding", None), f"{where}, text {first + row}") for row in range(count)]
    for row, vector in enumerate(rows, first):
        if len(vector) != space.width:
            raise BadInput(
                f"{where}, text {row}: the vector has width {len(vector)}, but {space.id} has width {space.width}. "
                "Check --model and --target, or ask for the width with --dimensions."
            )
    return _scaled(np.stack(rows), space, where, first)


def _vector(found: Any, where: str) -> Float32[np.ndarray, " d"]:
    """One vector: base64 of little-endian float32, or a list of numbers from servers that do not know base64."""
    try:
        if isinstance(found, str):
            return np.frombuffer(base64.b64decode(found, validate=True), "<f4").astype(np.float32)
        vector = np.asarray(found, np.float32)
    except (ValueError, TypeError):
        vector = None
    if vector is None or vector.ndim != 1:
        raise BadInput(f"{where}: the answer is no list of numbers. Is it OpenAI-compatible?")
    return vector


def _scaled(y: Float32[np.ndarray, "n d"], space: Space, where: str, first: int) -> Float32[np.ndarray, "n d"]:
    norms = np.linalg.norm(y.astype(np.float64), axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        raise Unavailable(f"{where}, text {first + bad.argmax()}: the vector is zero or not finite. Ask again later.")
    if not space.unit_norm:
        return y
    off = np.abs(norms - 1) > 0.01
    if off.any():
        row = int(off.argmax())
        raise BadInput(
            f"{where}, text {first + row}: the vector has length {norms[row]:.3g}, but those of {space.id} have length "
            "one. Check --model and --target."
        )
    return (y / norms[:, None]).astype(np.float32)


def _host(address: str) -> str:
    """Host and port of an address, without the name and password that it may hold."""
    return urlsplit(address).netloc.rpartition("@")[2]
