"""Errors of the endpoint in OpenAI's form."""

import json
from collections.abc import Mapping

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An error that is sent to the client.

    Attributes:
        status: HTTP status.
        message: Text for people: what is wrong and what to do.
        param: Field of the request that is wrong.
        code: Short code for programs.
        kind: OpenAI's `type`.
        headers: Additional headers, for instance Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Encode as `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def unknown_model(name: str) -> ApiError:
    """No served model has the name."""
    shown = name if len(name) <= 100 else name[:100] + "…"
    message = f"The model `{shown}` does not exist. GET /v1/models lists the served models."
    return ApiError(404, message, "model", "model_not_found")


def wrong_key(missing: bool) -> ApiError:
    """The request has no key, or a wrong one."""
    if missing:
        return ApiError(401, "You didn't provide an API key. Send it as `Authorization: Bearer KEY`.")
    return ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


def queue_full(seconds: int) -> ApiError:
    """The queue is full."""
    return ApiError(
        429,
        f"Too many texts are waiting. Try again in {seconds} s.",
        code="rate_limit_exceeded",
        kind="requests",
        headers={"Retry-After": str(seconds)},
    )


def not_ready() -> ApiError:
    """The models are not loaded yet."""
    return ApiError(
        503, "The models are being loaded. Try again in a second.", kind="server_error", headers={"Retry-After": "1"}
    )


def internal() -> ApiError:
    """An unexpected error of the server."""
    return ApiError(500, "The server had an error. See its log.", kind="server_error")
