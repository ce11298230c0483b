"""Share one client per location: embedded engines lock their folder, and a job may read and write in one folder."""

import atexit
import threading
from collections.abc import Callable
from typing import Any

_clients: dict[Any, tuple[Any, Callable[[], None]]] = {}
_users: dict[Any, int] = {}
_lock = threading.Lock()


def share_client(key: Any, create: Callable[[], Any], close: Callable[[Any], None]) -> Any:
    """Return the client of a location. The first caller creates it."""
    with _lock:
        if key not in _clients:
            client = create()
            _clients[key] = (client, lambda: close(client))
        _users[key] = _users.get(key, 0) + 1
        return _clients[key][0]


def release_client(key: Any) -> None:
    """Release a client. The last caller closes it."""
    with _lock:
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
