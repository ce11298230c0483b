"""Parse and validate the body of a request like OpenAI. Pure functions from bytes to a request or an `ApiError`."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from ea_jax.adapters.spec import Purpose
from ea_jax.errors import BadInput
from ea_jax.integrations.server.errors import ApiError
from ea_jax.integrations.server.models import Catalog, ServedModel
from ea_jax.integrations.server.vocabulary import MAX_TOKENS, Vocabulary

MAX_TEXTS = 2048  # in a request
MAX_REQUEST_TOKENS = 300_000
MAX_CHARACTERS = 1_000_000  # in a text; the limit of the encoders
MAX_BODY = 8 * 2**20  # bytes


@dataclass(frozen=True)
class EmbeddingRequest:
    """A valid request.

    Attributes:
        name: Name of the model in the request.
        model: The model with this name.
        purpose: Purpose of the vectors.
        texts: Texts to embed, in order.
        tokens: Number of tokens of each text in the target's vocabulary. None without the vocabulary.
        dimensions: Number of leading dimensions to keep. If None, all.
        encoding: Encoding of the vectors in the response.
        quality: Whether to add the confidence and the route to each item of the response.
    """

    name: str
    model: ServedModel
    purpose: Purpose
    texts: tuple[str, ...]
    tokens: tuple[int, ...] | None
    dimensions: int | None
    encoding: Literal["float", "base64"]
    quality: bool


def check_content_type(content_type: str | None) -> None:
    """Raise ApiError for types other than JSON, which browsers send across sites without a preflight request."""
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            400,
            f"Unsupported content type: {kind[:100]!r}. This API only accepts 'application/json' requests.",
            code="unsupported_content_type",
        )


def parse_request(body: bytes, catalog: Catalog) -> EmbeddingRequest:
    """Parse the body of a request.

    Raises:
        ApiError: A field is missing or not valid; `param` names it.
    """
    fields = _fields(body)
    name = fields.get("model")
    if name is None or name == "":
        raise ApiError(400, "you must provide a model parameter")
    if not isinstance(name, str):
        raise _wrong_type("model", "a string", name)
    model, purpose = catalog.find(name)
    texts = _texts(fields.get("input"), model)
    tokens = _counts(texts, model.vocabulary)
    return EmbeddingRequest(
        name,
        model,
        purpose,
        texts,
        tokens,
        _dimensions(fields.get("dimensions"), model),
        _encoding(fields.get("encoding_format")),
        _flag(fields, "quality"),
    )


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "The body of your request must be a JSON object.")
    user = fields.get("user")
    if user is not None and not isinstance(user, str):
        raise _wrong_type("user", "a string", user)
    return fields


def _texts(value: Any, model: ServedModel) -> tuple[str, ...]:
    """Parse `input`: one or several strings, or token ids of one or several texts."""
    if value is None:
        raise ApiError(400, "Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if isinstance(value, str):
        items: list[Any] = [value]
    elif isinstance(value, list):
        items = [value] if value and all(type(item) is int for item in value) else value
    else:
        raise _wrong_type("input", "a string, a list of strings, or token ids", value)
    if not items:
        raise ApiError(400, "'input' is an empty list. Send at least one text.", "input", "empty_array")
    if len(items) > MAX_TEXTS:
        message = f"'input' has {len(items)} items; a request can have at most {MAX_TEXTS:,}."
        raise ApiError(400, message, "input", "array_above_max_length")
    if len({type(item) for item in items}) > 1:
        raise ApiError(400, "'input' mixes texts with other items. Send items of one type.", "input", "invalid_type")
    return tuple(_text(item, number, model) for number, item in enumerate(items))


def _text(item: Any, number: int, model: ServedModel) -> str:
    if isinstance(item, list):
        return _decode(item, number, model)
    if not isinstance(item, str):
        raise _wrong_type(f"input[{number}]", "a string or a list of token ids", item)
    if not item:
        raise ApiError(400, f"'input[{number}]' is an empty string, which has no embedding.", "input", "empty_string")
    if len(item) > MAX_CHARACTERS:
        raise _context_exceeded(f"'input[{number}]' has {len(item):,} characters")
    try:
        item.encode()
    except UnicodeEncodeError:
        message = f"'input[{number}]' contains a lone surrogate, which is not a character."
        raise ApiError(400, message, "input", "invalid_string") from None
    return item


def _decode(ids: list[Any], number: int, model: ServedModel) -> str:
    """Decode token ids to a text."""
    if not ids:
        raise ApiError(400, f"'input[{number}]' is an empty list of token ids.", "input", "empty_array")
    if not all(type(token) is int for token in ids):
        raise ApiError(400, f"'input[{number}]' contains items other than token ids.", "input", "invalid_type")
    if model.vocabulary is None:
        raise ApiError(
            400,
            f"'input' contains token ids, which this server cannot decode: it lacks tiktoken or the vocabulary of "
            f"{model.name}. Send texts. In LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False).",
            "input",
            "tokens_not_supported",
        )
    if len(ids) > MAX_TOKENS:
        raise _context_exceeded(f"'input[{number}]' has {len(ids):,} tokens")
    try:
        return model.vocabulary.decode(ids)
    except ValueError as error:
        raise ApiError(400, f"'input[{number}]': {error}", "input", "invalid_token_ids") from None


def _counts(texts: tuple[str, ...], vocabulary: Vocabulary | None) -> tuple[int, ...] | None:
    """Count the tokens of each text. None without a vocabulary."""
    if vocabulary is None:
        return None
    counts = tuple(vocabulary.count(text) for text in texts)
    longest = max(range(len(counts)), key=counts.__getitem__)
    if counts[longest] > MAX_TOKENS:
        raise _context_exceeded(f"'input[{longest}]' has {counts[longest]:,} tokens")
    if sum(counts) > MAX_REQUEST_TOKENS:
        message = f"Requested {sum(counts):,} tokens, max {MAX_REQUEST_TOKENS:,} tokens per request."
        raise ApiError(400, message, "input", "max_tokens_per_request", "max_tokens_per_request")
    return counts


def _dimensions(value: Any, model: ServedModel) -> int | None:
    if value is None:
        return None
    if type(value) is not int:
        raise _wrong_type("dimensions", "an integer", value)
    try:
        model.adapted.check_dimensions(value)
    except BadInput as error:
        raise ApiError(400, str(error), "dimensions", "invalid_value") from None
    return value


def _encoding(value: Any) -> Literal["float", "base64"]:
    if value is None or value == "float":
        return "float"
    if value == "base64":
        return "base64"
    raise ApiError(400, "'encoding_format' must be 'float' or 'base64'.", "encoding_format", "invalid_value")


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong_type(name, "true or false", value)
    return bool(value)


def _context_exceeded(problem: str) -> ApiError:
    message = f"{problem}, but this model's maximum context length is {MAX_TOKENS:,} tokens. Split the text."
    return ApiError(400, message, "input", "context_length_exceeded")


def _wrong_type(param: str, expected: str, value: Any) -> ApiError:
    message = f"Invalid type for '{param}': expected {expected}, but got {_JSON.get(type(value), 'another type')}."
    return ApiError(400, message, param, "invalid_type")


_JSON = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}
_JSON |= {type(None): "null"}
