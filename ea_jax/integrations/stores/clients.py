"""One client for each place: embedded engines lock their folder, and a job reads and writes in the same one."""

import atexit
import threading
from collections.abc import Callable
from typing import Any

_clients: dict[Any, tuple[Any, Callable[[], None]]] = {}
_users: dict[Any, int] = {}
_guard = threading.Lock()


def share_client(key: Any, make: Callable[[], Any], close: Callable[[Any], None]) -> Any:
    """The process's client of a location, made for its first user."""
    with _guard:
        if key not in _clients:
            client = make()
            _clients[key] = (client, lambda: close(client))
        _users[key] = _users.get(key, 0) + 1
        return _clients[key][0]


def release_client(key: Any) -> None:
    """Close the client of a location when its last user has let go of it."""
    with _guard:
        if key not in _clients:
            return
        _users[key] -= 1
        if _users[key] == 0:
            del _users[key]
            _clients.pop(key)[1]()


@atexit.register
def _close_all() -> None:
    for _, close in _clients.values():
        close()
    _clients.clear()
