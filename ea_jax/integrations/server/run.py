"""Load adapters by name and serve them with uvicorn."""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

import uvicorn

from ea_jax.adapters.spec import Purpose
from ea_jax.encoders.encoder import Encoder
from ea_jax.errors import BadInput
from ea_jax.integrations.adapted_encoder import Names, adapt_encoder
from ea_jax.integrations.server.app import ServerConfig, create_app
from ea_jax.integrations.server.models import Catalog, ServedModel, make_catalog, public_names
from ea_jax.integrations.server.vocabulary import find_vocabulary
from ea_jax.loading import load_source_encoder, resolve_entry
from ea_jax.registry.spaces import find_space

logger = logging.getLogger(__name__)
KEEP_ALIVE = 75  # seconds; uvicorn's 5 equal the time for which httpx, and so openai-python, reuses a connection
GRACE = 30  # seconds to answer accepted requests on shutdown


class Address(NamedTuple):
    """Address of the server."""

    host: str = "127.0.0.1"
    port: int = 8000


def load_catalog(adapters: Sequence[Names], purpose: Purpose = "query") -> Catalog:
    """Load adapters. Adapters from the same source share one encoder.

    The first adapter to a target is served under the name that the target's provider uses. Each is also served under
    its own name, `<source>--<target>--<flavor>`.

    Raises:
        EaJaxError: As `ea_jax.load` and `ea_jax.load_encoder`; or an adapter is listed twice.
    """
    encoders: dict[tuple[str, str], Encoder] = {}
    models: list[ServedModel] = []
    for names in adapters:
        entry = resolve_entry(*names)
        space = find_space(entry.target, entry.path.parent)
        name, aliases = public_names(space.id, space.aliases)
        if name in [model.name for model in models]:
            name, aliases = entry.name, ()
        key = entry.source, entry.encoder["fingerprint"]
        if key not in encoders:
            encoders[key] = load_source_encoder(entry)
        adapted = adapt_encoder(encoders[key], entry, names)
        vocabulary = find_vocabulary(space.id.rpartition("/")[2])
        models.append(ServedModel(name, (*aliases, entry.name), adapted, vocabulary, adapted.width < space.width))
    return make_catalog(models, purpose)


def listen(address: Address) -> socket.socket:
    """Listen on an address.

    Raises:
        BadInput: Another program uses the port, or this machine does not have the address.
    """
    host, port = address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        code = getattr(error, "errno", None) or 0
        reason = os.strerror(code) if code > 0 else getattr(error, "strerror", None) or str(error)
        raise BadInput(f"The server cannot listen on {host}, port {port}: {reason}. Choose another.") from error


def serve(load: Callable[[], Catalog], config: ServerConfig, address: Address) -> None:
    """Serve until SIGINT or SIGTERM, and answer the accepted requests before returning.

    Raises:
        BadInput: The address cannot be used.
        Exception: The error of `load`.
    """
    listener = listen(address)
    errors: list[Exception] = []

    def fail(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(load, config, fail),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=KEEP_ALIVE,
            server_header=False,
        )
    )
    logger.info("Loading the models for http://%s:%s/v1.", address.host, listener.getsockname()[1])
    with listener:
        server.run(sockets=[listener])
    if errors:
        raise errors[0]
