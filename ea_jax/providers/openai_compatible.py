"""Request vectors from an OpenAI-compatible endpoint: retries, batch limits, encodings and checks."""

import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float32

from ea_jax.data.texts import quoted
from ea_jax.errors import BadInput, MissingDependency, Unavailable
from ea_jax.providers.vectors import check_vectors
from ea_jax.registry.spaces import Space

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"
TIMEOUT = 120.0  # seconds, of one request
TRIES = 8  # of one request
TRIES_BEFORE_HALVING = 4  # server errors of a request before it is halved: some endpoints answer 500 to large requests
FIRST_WAIT = 1.0  # seconds; each further wait is twice as long
LONGEST_WAIT = 60.0
MAX_RETRY_AFTER = 900.0  # seconds; the longest wait that a provider may ask for
TRANSIENT = {408, 409, 429}  # and all from 500 on
UNPROCESSABLE = {400, 413, 422}  # the request is refused for its content, size or encoding
TOO_MANY = re.compile(r"batch|too many|at most|array|number of (inputs|texts|items)|larger than", re.I)
TOO_LONG = re.compile(r"too (long|large)|length|tokens?\b|exceed", re.I)
NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
RESUME = "Finished requests are kept: run the same command again to continue."
KEPT_SHARE = 0.75  # of the characters of a text that is too long, in each attempt to truncate it

TooLong = Literal["error", "skip", "cut"]
TOO_LONG_ACTIONS: tuple[TooLong, ...] = ("error", "skip", "cut")
logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """Vectors of the texts of one request, in their order.

    Attributes:
        vectors: The vectors; rows of NaN for skipped texts.
        tokens: Number of tokens that the provider counted.
    """

    vectors: Float32[np.ndarray, "n d"]
    tokens: int


class _Refused(Exception):
    """The endpoint refuses a request, and would refuse it again."""

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status, self.message, self.reason = status, message, reason


def resolve_base_url(base_url: str | None) -> str | None:
    """Return the endpoint's address: `base_url`, or else that of the environment, or None without either.

    Raises:
        BadInput: The address is not an http address.
    """
    address = base_url or os.environ.get(URL_VARIABLE, "").strip() or None
    try:
        valid = address is None or (urlsplit(address).scheme in ("http", "https") and urlsplit(address).hostname)
    except ValueError:
        valid = False
    if not valid:
        raise BadInput("The endpoint's address is not an http address, such as http://localhost:8080/v1.")
    return address


def open_client(base_url: str | None = None) -> Any:
    """Open a client of the `openai` package, with the key from the environment.

    The client's own retries are off. `Endpoint` retries instead, because it also waits when Retry-After exceeds the
    client's cap, stops at once when the account is empty, reports its waits, and ends them when another request failed.

    Raises:
        MissingDependency: The package is not installed.
        BadInput: There is no key, or the address is not an http address.
    """
    try:
        from openai import OpenAI
    except ImportError as error:
        raise MissingDependency(
            "Requests to a provider need the openai client, which is not installed: pip install 'ea_jax[openai]'."
        ) from error
    address = resolve_base_url(base_url) or OPENAI
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise BadInput(f"There is no key: set {KEY_VARIABLE} (to any value, if {_host(address)} needs none).")
    if not (key.isascii() and key.isprintable()):
        raise BadInput(f"{KEY_VARIABLE} has characters that no key has. Copy the key again.")
    return OpenAI(api_key=key, base_url=address, max_retries=0, timeout=TIMEOUT)


@dataclass(eq=False)
class Endpoint:
    """One model of one provider, for one space. Several threads may use it at once.

    Attributes:
        client: An `openai.OpenAI`.
        model: The provider's name for the model.
        space: Space that the vectors must belong to.
        dimensions: Width to request; None leaves it to the model.
        too_long: Action for a text that the model refuses for its length: an error, a row of NaN, or a shorter text.
        stop: Once set, waits end and no further request is sent.
        encoding: Encoding to request: base64, until the endpoint turns out to need float.
        max_texts: Number of texts that a request may have; None until the endpoint turns out to have a limit.
    """

    client: Any
    model: str
    space: Space
    dimensions: int | None
    too_long: TooLong = "error"
    stop: threading.Event = field(default_factory=threading.Event)
    encoding: Literal["base64", "float"] = "base64"
    max_texts: int | None = None
    _base64_works: bool = field(default=False, init=False)
    _long_texts: int = field(default=0, init=False)

    @property
    def host(self) -> str:
        """The provider's name in messages."""
        return _host(str(self.client.base_url))

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.dimensions or self.space.width

    def embed(self, texts: Sequence[str], first: int = 0) -> Answer | None:
        """Request the vectors of texts and check them. Returns None if `stop` was set before there were any.

        A request that the endpoint refuses for its size is halved until it is accepted, and later requests keep to
        that size.

        Args:
            texts: The texts of one request.
            first: Number of the first text, for messages.

        Raises:
            BadInput: The provider refuses the request, or its answer has no vectors of the space.
            Unavailable: The provider stays busy or unreachable.
        """
        if self.max_texts is not None and len(texts) > self.max_texts:
            size = self.max_texts
            return self._join(self.embed(texts[i : i + size], first + i) for i in range(0, len(texts), size))
        try:
            return self._embed_once(list(texts), first)
        except _Refused as refusal:
            if len(texts) > 1 and self._is_too_large(refusal):
                return self._embed_halves(texts, first)
            if len(texts) == 1 and self.too_long != "error" and self._is_too_long(refusal):
                return self._embed_long(texts[0], first, refusal)
            raise BadInput(refusal.message) from None  # the cause can quote the key

    def _embed_halves(self, texts: Sequence[str], first: int) -> Answer | None:
        half, long_texts = -(-len(texts) // 2), self._long_texts
        answer = self._join(self.embed(texts[i : i + half], first + i) for i in (0, half))
        if self._long_texts == long_texts and (self.max_texts is None or half < self.max_texts):
            self.max_texts = half
            logger.info(f"{self.host} refuses requests of {len(texts)} texts; they now have at most {half}")
        return answer

    def _embed_long(self, text: str, number: int, refusal: _Refused) -> Answer | None:
        """Skip a text that is too long, or truncate it until the model accepts it."""
        self._long_texts += 1
        if self.too_long == "skip":
            logger.info(f"text {number} is too long for {self.model} and is skipped: {quoted(text)}")
            return Answer(np.full((1, self.width), np.nan, np.float32), 0)
        kept = int(len(text) * KEPT_SHARE)
        while kept:
            try:
                answer = self._embed_once([text[:kept]], number)
            except _Refused as again:
                if not self._is_too_long(again):
                    raise BadInput(again.message) from None
                kept = int(kept * KEPT_SHARE)
                continue
            logger.info(f"text {number} is too long for {self.model}: only its first {kept:,} characters are used")
            return answer
        raise BadInput(refusal.message)

    @staticmethod
    def _join(answers: Iterable[Answer | None]) -> Answer | None:
        """Join the answers to the parts of a request; None if one is missing."""
        parts: list[Answer] = []
        for answer in answers:
            if answer is None:
                return None
            parts.append(answer)
        return Answer(np.concatenate([part.vectors for part in parts]), sum(part.tokens for part in parts))

    def _is_too_large(self, refusal: _Refused) -> bool:
        """Whether a smaller request may pass. A 400 can be any fault, so its reason must name the size or length."""
        if refusal.status != 400:
            return True
        return bool(TOO_MANY.search(refusal.reason)) or (self.too_long != "error" and self._is_too_long(refusal))

    def _is_too_long(self, refusal: _Refused) -> bool:
        return refusal.status == 413 or (refusal.status in UNPROCESSABLE and bool(TOO_LONG.search(refusal.reason)))

    def _embed_once(self, texts: list[str], first: int) -> Answer | None:
        """Send one request, with retries, and a second one with float if base64 is refused or gives no vectors."""
        encoding = self.encoding  # other threads can change it meanwhile
        try:
            response = self._request(texts, first, encoding)
        except _Refused as refusal:
            if encoding == "float" or self._base64_works or refusal.status not in {400, 422}:
                raise
            encoding, response = "float", self._request(texts, first, "float")
            self._use_float(response)
        if response is None:
            return None
        items = _items(response)
        if encoding == "base64" and not any(embedding for _, embedding in items):
            retried = self._request(texts, first, "float")
            if retried is None:
                return None
            if any(embedding for _, embedding in _items(retried)):
                self._use_float(retried)
                encoding, response, items = "float", retried, _items(retried)
        usage = getattr(getattr(response, "usage", None), "prompt_tokens", None)
        where = f"{self.host}, model {self.model}"
        vectors = check_vectors(items, len(texts), self.space, where, first, self.dimensions)
        self._base64_works = self._base64_works or encoding == "base64"
        return Answer(vectors, usage if isinstance(usage, int) else 0)

    def _use_float(self, response: Any) -> None:
        if response is not None and self.encoding == "base64":
            self.encoding = "float"
            logger.info(f"{self.host} does not answer in base64; vectors are now requested as float")

    def _request(self, texts: list[str], first: int, encoding: str) -> Any:
        """Send a request until it is answered with a list of data. Returns None once `stop` is set.

        Raises:
            _Refused: The endpoint refuses the request, or repeatedly fails on one of several texts.
            BadInput: The endpoint refuses the key, the model or the account.
            Unavailable: The endpoint stays busy or unreachable.
        """
        import openai

        reason = ""
        for attempt in range(TRIES):
            if self.stop.is_set():
                return None
            wait = None
            try:
                response = self._create(texts, encoding)
                if isinstance(getattr(response, "data", None), list):
                    return response
                reason = "its answer has no vectors"
            except openai.APIStatusError as error:
                self._raise_if_final(error, texts, first)
                reason, wait = f"it answered with status {error.status_code}", retry_after(error.response.headers)
                if error.status_code == 500 and len(texts) > 1 and attempt + 1 >= TRIES_BEFORE_HALVING:
                    raise _Refused(500, f"{self.host} answers with status 500.", "") from None
            except openai.APITimeoutError:
                reason = f"it did not answer within {TIMEOUT:.0f} s"
            except openai.APIConnectionError:
                reason = "the connection failed"
            except ValueError:
                reason = "its answer is incomplete or not JSON"
            if attempt < TRIES - 1:
                self._pause(reason, wait, attempt)
        raise Unavailable(f"{self.host} gave no vectors in {TRIES} tries. The last failure: {reason}. {RESUME}")

    def _create(self, texts: list[str], encoding: str) -> Any:
        # base64 is exact float32, and the client's own default: servers that support the client support it
        width = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return self.client.embeddings.create(model=self.model, input=texts, encoding_format=encoding, **width)

    def _pause(self, reason: str, requested: float | None, attempt: int) -> None:
        """Wait as long as the provider requests, or else twice as long each time, plus up to a quarter at random."""
        if requested is not None and requested > MAX_RETRY_AFTER:
            raise Unavailable(f"{self.host} requests a pause of {requested / 60:.0f} minutes. {RESUME}")
        wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) if requested is None else requested
        wait *= 1 + random.random() / 4
        logger.info(f"{self.host}: {reason}; trying again in {wait:.1f} s")
        self.stop.wait(wait)

    def _raise_if_final(self, error: Any, texts: list[str], first: int) -> None:
        """Raise the error of a status that does not change if the request is repeated."""
        status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
        reason = str(body.get("message") or body.get("detail") or error.body or "no reason given")
        reason = " ".join(reason.replace(self.client.api_key, "…").split())
        short = reason[:300].rstrip(".")
        if status == 401:  # the reason quotes the key
            raise BadInput(f"{self.host} refuses the key (401). Put a valid one into {KEY_VARIABLE}.") from None
        if status == 403:
            message = f"{self.host} does not let this key use {self.model} (403): {short}. Check the key's rights."
            raise BadInput(message) from None
        if status == 404:
            message = f"{self.host} has no {self.model} (404): {short}. Check the model and the address of the endpoint"
            raise BadInput(f"{message}, which often ends in /v1.") from None
        if status == 429 and NO_CREDIT & {str(body.get("code")), str(body.get("type"))}:
            raise BadInput(f"The account at {self.host} has no credit left (429). Top it up. {RESUME}") from None
        if status in TRANSIENT or status >= 500:
            return
        longest = max(range(len(texts)), key=lambda row: len(texts[row]))
        size = f"{len(texts[longest]):,} characters: {quoted(texts[longest])}"
        message = f"{self.host} refuses text {first} ({status}): {short}. It has {size}."
        if len(texts) > 1:
            message = f"{self.host} refuses a request of {len(texts)} texts ({status}): {short}. "
            message += f"The longest of them is text {first + longest} with {size}."
        raise _Refused(status, message, reason) from None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the seconds that a response asks to wait, from a number or a date; None if there is nothing readable."""
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


def _items(response: Any) -> list[tuple[Any, Any]]:
    """Index and embedding of each item of an answer."""
    return [(getattr(item, "index", None), getattr(item, "embedding", None)) for item in response.data]


def _host(address: str) -> str:
    """Return host and port of an address, without the name and password that it may contain."""
    return urlsplit(address).netloc.rpartition("@")[2]
