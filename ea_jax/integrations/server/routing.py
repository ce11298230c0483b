"""Send texts of low confidence to the provider, and merge its vectors with the local ones."""

import asyncio
import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ea_jax.embeddings import LENGTH_TOLERANCE
from ea_jax.errors import MissingDependency
from ea_jax.integrations.server.engine import Row
from ea_jax.integrations.server.models import ServedModel
from ea_jax.integrations.server.spending import Spending

LOCAL, PROVIDER = "local", "provider"
UNAVAILABLE, SPENT = (
    "local-provider-unavailable",
    "local-spend-limit",
)  # local vectors in place of the provider's, and why
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds without requests after a failure, doubled each time


@dataclass(frozen=True)
class RoutingConfig:
    """Which texts are sent to which provider.

    Attributes:
        min_confidence: Texts of lower confidence are sent to the provider.
        base_url: Base URL of the provider's OpenAI-compatible API.
        api_key: Key of the provider.
        model: The provider's name of the target model. If None, the served name.
        price: USD per million tokens.
        timeout: Seconds after which local vectors are served instead.
    """

    min_confidence: float
    base_url: str
    api_key: str = field(repr=False)
    model: str | None = None
    price: float = 0.0
    timeout: float = 10.0


class Routed(NamedTuple):
    """Vectors in the order of the texts, and the route of each, one of the four names above."""

    vectors: Float[np.ndarray, "n d"]
    routes: list[str]


class ProviderError(Exception):
    """The provider returned no valid vectors.

    Attributes:
        reason: One word, for the metrics.
        pause: Seconds until the next request, from the provider's Retry-After. None without one.
    """

    def __init__(self, reason: str, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.pause = reason, pause


def low_confidence(rows: Sequence[Row], min_confidence: float) -> list[int]:
    """Indices of the texts whose confidence is below the threshold or not a number."""
    return [i for i, row in enumerate(rows) if not row.confidence >= min_confidence]


def route_locally(rows: Sequence[Row]) -> Routed:
    """Use the local vector of every text."""
    return Routed(np.stack([row.vector for row in rows]), [LOCAL] * len(rows))


def merge(
    rows: Sequence[Row], indices: Sequence[int], vectors: Float[np.ndarray, "m d"] | None, route: str = PROVIDER
) -> Routed:
    """Replace local vectors by those of the provider.

    Args:
        rows: Local results of all texts.
        indices: Indices of the texts for the provider.
        vectors: The provider's vectors of these texts. If None, the local vectors are kept.
        route: Route of these texts.
    """
    y, routes = route_locally(rows)
    for at, i in enumerate(indices):
        routes[i] = route
        if vectors is not None:
            y[i] = vectors[at]
    return Routed(y, routes)


def vectors_of_answer(data: Any, count: int, width: int, unit_norm: bool) -> Float[np.ndarray, "m d"]:
    """Validate a provider's response. Returns its vectors in the order of the texts.

    Raises:
        ProviderError: It does not have `count` finite vectors of the target space.
    """
    embeddings: dict[Any, Any] = {getattr(item, "index", None): getattr(item, "embedding", None) for item in data or ()}
    if len(data or ()) != count or set(embeddings) != set(range(count)):
        raise ProviderError("malformed", f"{len(data or ())} vectors for {count} texts, or other indices")
    try:
        y = np.stack([_decode(embeddings[i]) for i in range(count)])
    except (ValueError, TypeError) as error:
        raise ProviderError("malformed", "the vectors are not lists of numbers of one width") from error
    if y.shape != (count, width):
        raise ProviderError("malformed", f"the vectors have width {y.shape[-1]}, not {width}")
    lengths = np.linalg.norm(y.astype(np.float64), axis=1)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise ProviderError("malformed", "a vector is zero or not finite")
    if not unit_norm:
        return y
    if np.any(np.abs(lengths - 1) > LENGTH_TOLERANCE):
        raise ProviderError("malformed", "a vector does not have length one")
    return (y / lengths[:, None]).astype(np.float32)


def _decode(embedding: Any) -> Float[np.ndarray, " d"]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.asarray(embedding, np.float32)


class Router:
    """Sends texts of low confidence to the provider. If the provider fails, their local vectors are used."""

    def __init__(
        self,
        config: RoutingConfig,
        spending: Spending,
        on_failure: Callable[[str, str], None] = lambda reason, message: None,
    ) -> None:
        """Create a client. Nothing is sent yet.

        Args:
            config: Which texts are sent to which provider.
            spending: The monthly spend limit.
            on_failure: Function that is called with a reason and a message when the provider fails.

        Raises:
            MissingDependency: The openai client is not installed.
        """
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise MissingDependency(
                "The openai client is not installed, which requests to a provider need: pip install 'ea_jax[openai]'."
            ) from error
        self.config, self.spending, self._on_failure = config, spending, on_failure
        self._client = AsyncOpenAI(
            base_url=config.base_url, api_key=config.api_key, timeout=config.timeout, max_retries=0
        )
        self._pause, self._paused_until = FIRST_PAUSE, 0.0

    async def route(
        self, model: ServedModel, texts: Sequence[str], rows: Sequence[Row], tokens: Sequence[int]
    ) -> Routed:
        """Choose a vector for each text: the provider's where the confidence is low.

        Args:
            model: The model of the request.
            texts: Texts of the request.
            rows: Their local results.
            tokens: Upper bounds of the number of tokens that the provider charges for each text.
        """
        indices = low_confidence(rows, self.config.min_confidence)
        if not indices:
            return route_locally(rows)
        if time.monotonic() < self._paused_until:
            return merge(rows, indices, None, UNAVAILABLE)
        reserved = self._usd(sum(tokens[i] for i in indices))
        if not self.spending.reserve(reserved):
            return merge(rows, indices, None, SPENT)
        paid = 0.0
        try:
            vectors, used = await self._request(model, [texts[i] for i in indices])
            paid = self._usd(used) if used is not None else reserved
            self._pause = FIRST_PAUSE
            return merge(rows, indices, vectors)
        except ProviderError as error:
            paid = reserved if error.reason in ("timeout", "malformed") else 0.0  # it may have charged for it
            self._paused_until = time.monotonic() + (self._pause if error.pause is None else error.pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._on_failure(error.reason, str(error))
            return merge(rows, indices, None, UNAVAILABLE)
        finally:
            self.spending.settle(reserved, paid)

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    def _usd(self, tokens: int) -> float:
        return tokens * self.config.price / 1e6

    async def _request(self, model: ServedModel, texts: list[str]) -> tuple[Float[np.ndarray, "m d"], int | None]:
        """Request vectors with all dimensions. Returns them with the number of charged tokens, None if unknown."""
        import openai

        spec = model.adapted.quality.spec
        width: dict[str, Any] = {"dimensions": spec.d_out} if model.shortened else {}
        try:
            async with asyncio.timeout(self.config.timeout):
                answer = await self._client.embeddings.create(
                    model=self.config.model or model.name, input=texts, encoding_format="base64", **width
                )
        except (TimeoutError, openai.APITimeoutError):
            raise ProviderError("timeout", f"no response within {self.config.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise _status_error(error.status_code, error.response.headers.get("retry-after")) from None
        except openai.OpenAIError as error:
            raise ProviderError("connection", type(error).__name__) from None
        except (ValueError, TypeError, AttributeError):
            raise ProviderError("malformed", "the response is not a list of embeddings") from None
        used = getattr(getattr(answer, "usage", None), "prompt_tokens", None)
        vectors = vectors_of_answer(getattr(answer, "data", None), len(texts), spec.d_out, spec.unit_norm)
        return vectors, used if type(used) is int else None


def _status_error(status: int, retry_after: str | None) -> ProviderError:
    """Convert an error response. The provider's message is omitted because it may contain the key."""
    names = {401: "key", 403: "key", 404: "model", 429: "busy"}
    try:
        pause = float(retry_after) if retry_after is not None else math.nan
    except ValueError:
        pause = math.nan
    wait = min(max(pause, 0.0), 3600.0) if math.isfinite(pause) else None
    return ProviderError(names.get(status, "status"), f"it responded with status {status}", wait)
