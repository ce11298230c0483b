"""The ASGI application: routes, the API key, and startup and shutdown."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ea_jax.integrations.server.batcher import Batcher, BatchLimits
from ea_jax.integrations.server.engine import Engine
from ea_jax.integrations.server.errors import ApiError, internal, not_ready, wrong_key
from ea_jax.integrations.server.models import Catalog, find_listed, model_object
from ea_jax.integrations.server.monitoring import CONTENT_TYPE, Metrics
from ea_jax.integrations.server.requests import MAX_BODY, EmbeddingRequest, check_content_type, parse_request
from ea_jax.integrations.server.responses import dumps, embeddings_json, quality_headers
from ea_jax.integrations.server.routing import Router, RoutingConfig, route_locally
from ea_jax.integrations.server.spending import Spending

LARGE_BODY, LARGE_ANSWER = (
    32_768,
    16,
)  # bytes and vectors beyond which a thread does the work, so that the event loop stays responsive
BODY_SECONDS = 60.0  # time limit for receiving the body of a request
DISCARDED = 8  # bodies up to this multiple of the limit are read completely, so that the client receives the error
DISCONNECTED = 499  # status in the metrics of requests whose client disconnected
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerConfig:
    """Settings of an application.

    Attributes:
        api_key: Key that `/v1` requires. If None, no key.
        batches: Limits of batches and of the queue.
        routing: When to send texts to a provider. If None, never.
        spending: Monthly spend limit of the provider. Required with `routing`.
        warm: Whether to compile programs: for common lengths before the server is ready, for others after.
    """

    api_key: str | None = field(default=None, repr=False)
    batches: BatchLimits = field(default_factory=BatchLimits)
    routing: RoutingConfig | None = None
    spending: Spending | None = None
    warm: bool = True


class Server:
    """State of an application: models, queue and metrics."""

    def __init__(
        self, load: Callable[[], Catalog], config: ServerConfig, on_failure: Callable[[Exception], None]
    ) -> None:
        self.config, self.metrics = config, Metrics()
        self.catalog: Catalog | None = None
        self.engine = Engine()
        self.batcher = Batcher(self.engine.compute, config.batches, self.metrics.observe_batch)
        self.router: Router | None = None
        if config.routing is not None and config.spending is not None:
            self.router = Router(config.routing, config.spending, self._provider_failed)
        self._load, self._on_failure = load, on_failure

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Load the models in the background. On shutdown, answer the accepted requests first."""
        self.batcher.start()
        loading = asyncio.create_task(self._prepare())
        try:
            yield
        finally:
            self.engine.stop()
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            await self.batcher.close()
            if self.router is not None:
                await self.router.close()

    async def _prepare(self) -> None:
        start = time.monotonic()
        try:
            catalog = await self.batcher.run(self._load)
            if self.config.warm:
                await self.batcher.run(self.engine.prepare, catalog, self.config.batches.texts)
        except Exception as error:
            self._on_failure(error)
            return
        self.metrics.watch(catalog)
        self.catalog = catalog
        logger.info("Ready after %.1f s: %s.", time.monotonic() - start, ", ".join(m.name for m in catalog.models))
        if self.config.warm:
            await asyncio.to_thread(self.engine.prepare_more, catalog)
            logger.info("All batch sizes are compiled after %.1f s.", time.monotonic() - start)

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        start, model, status = time.perf_counter(), "", 200
        try:
            self._check_key(request)
            check_content_type(request.headers.get("content-type"))
            if self.catalog is None:
                raise not_ready()
            body = await read_body(request)
            parsed = await _in_thread(len(body) > LARGE_BODY, parse_request, body, self.catalog)
            model = parsed.model.name
            return await self._answer(parsed, request)
        except ApiError as error:
            status = error.status
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            status = DISCONNECTED
            return Response(status_code=DISCONNECTED)
        except Exception:
            status = 500
            logger.exception("A request failed.")
            raise internal() from None
        finally:
            self.metrics.requests.labels(model, str(status)).inc()
            self.metrics.seconds.labels(model).observe(time.perf_counter() - start)

    async def _answer(self, parsed: EmbeddingRequest, request: Request) -> Response:
        key = (parsed.model, parsed.purpose)
        rows = await cancel_on_disconnect(request, self.batcher.submit(key, parsed.texts))
        routed = route_locally(rows)
        if self.router is not None:
            tokens = parsed.tokens or [len(text.encode()) for text in parsed.texts]  # each token has at least one byte
            routed = await self.router.route(parsed.model, parsed.texts, rows, tokens)
        self.metrics.record(parsed.model, rows, routed.routes)
        body = await _in_thread(len(rows) > LARGE_ANSWER, embeddings_json, parsed, routed, rows)
        return Response(body, media_type="application/json", headers=quality_headers(routed, rows))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models` and `/v1/models/NAME`."""
        self._check_key(request)
        if self.catalog is None:
            raise not_ready()
        if name := request.path_params.get("name"):
            return _json(find_listed(self.catalog, name))
        return _json({"object": "list", "data": [model_object(name) for name in self.catalog.names()]})

    async def healthz(self, _: Request) -> Response:
        """`GET /healthz`: 200 as soon as the process runs."""
        return _json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: 200 once the models are loaded and compiled, else 503."""
        if self.catalog is None:
            raise not_ready()
        return _json({"status": "ready"})

    async def show_metrics(self, _: Request) -> Response:
        """`GET /metrics`, in the format of Prometheus."""
        self.metrics.waiting.set(self.batcher.waiting)
        self.metrics.largest.set(self.engine.size)
        if self.config.spending is not None:
            self.metrics.spent.set(self.config.spending.spent())
        return Response(await asyncio.to_thread(self.metrics.text), media_type=CONTENT_TYPE)

    def _check_key(self, request: Request) -> None:
        if self.config.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        if not hmac.compare_digest(key.encode(), self.config.api_key.encode()):
            raise wrong_key(missing=not key)

    def _provider_failed(self, reason: str, message: str) -> None:
        self.metrics.failures.labels(reason).inc()
        logger.warning("The provider returned no vectors, so local vectors are served: %s.", message)


def create_app(
    load: Callable[[], Catalog],
    config: ServerConfig | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> Starlette:
    """Create an ASGI application.

    Args:
        load: Function that loads the models. It is called in the thread that computes with them.
        config: Settings.
        on_failure: Function that is called if the models cannot be loaded. If None, the error is logged.
    """
    server = Server(load, config or ServerConfig(), on_failure or _log_failure)
    routes = [
        Route("/v1/embeddings", server.embeddings, methods=["POST"]),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.models),
        Route("/healthz", server.healthz),
        Route("/readyz", server.readyz),
        Route("/metrics", server.show_metrics),
    ]
    handlers: Any = {ApiError: _api_error, HTTPException: _http_error}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=server.lifespan)
    app.router.redirect_slashes = False  # clients do not follow redirects of a POST
    return app


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: 413 if it is too large, 408 if it does not arrive in time.
        ClientDisconnect: The client disconnected.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > DISCARDED * limit:
                    break
    except TimeoutError:
        raise ApiError(408, "The body of your request did not arrive in time.") from None
    if size > limit:
        raise ApiError(413, f"The body of your request has more than {limit:,} bytes. Split it.", code="body_too_large")
    return b"".join(parts)


async def cancel_on_disconnect(request: Request, work: Awaitable[Any]) -> Any:
    """Await the result of some work, and cancel the work if the client disconnects.

    Raises:
        ClientDisconnect: The client disconnected.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _in_thread(large: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, in another thread if the work is large."""
    return await asyncio.to_thread(function, *arguments) if large else function(*arguments)


async def _api_error(_: Request, error: ApiError) -> Response:
    return Response(error.body(), error.status, error.headers, "application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Answer unknown paths and methods in OpenAI's form."""
    if error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.url.path}."
        return await _api_error(request, ApiError(405, message, headers=error.headers))
    message = f"Invalid URL ({request.method} {request.url.path})"
    return await _api_error(request, ApiError(error.status_code, message))


def _json(content: dict[str, Any]) -> Response:
    return Response(dumps(content), media_type="application/json")


def _log_failure(error: Exception) -> None:
    logger.error("The models could not be loaded: %s", error)
