"""Limit what a provider is paid a month, with the sums in a file."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ea_jax.errors import BadInput
from ea_jax.io.atomic import hold_lock, write_atomically

PRICES = {  # USD per million tokens
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.10,
}


def this_month() -> str:
    """Format the current month in UTC, for instance 2026-11."""
    return datetime.now(UTC).strftime("%Y-%m")


class Spending:
    """A monthly spend limit. Amounts are reserved before each request, so that concurrent requests respect it too.

    Attributes:
        limit: USD per month.
    """

    def __init__(self, file: Path, limit: float, month: Callable[[], str] = this_month) -> None:
        """Open the file of monthly sums. Servers with the same file share the limit.

        Raises:
            BadInput: The file is not a record of spending.
        """
        self.limit, self._file, self._month, self._reserved = limit, file, month, 0.0
        file.parent.mkdir(parents=True, exist_ok=True)
        self._read()

    def spent(self) -> float:
        """USD spent this month."""
        return self._read().get(self._month(), 0.0)

    def reserve(self, usd: float) -> bool:
        """Reserve an amount. Returns False if it would exceed the limit."""
        if self.spent() + self._reserved + usd > self.limit:
            return False
        self._reserved += usd
        return True

    def settle(self, reserved: float, usd: float) -> None:
        """Release a reserved amount, and record the amount that was paid."""
        self._reserved = max(0.0, self._reserved - reserved)
        if usd <= 0:
            return
        with hold_lock(self._file.with_suffix(".lock"), str(self._file), wait=True):
            months = self._read()
            months[self._month()] = months.get(self._month(), 0.0) + usd
            with write_atomically(self._file) as stream:
                stream.write(json.dumps(months).encode())

    def _read(self) -> dict[str, float]:
        try:
            months = json.loads(self._file.read_text())
            return {str(month): float(usd) for month, usd in months.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{self._file} is not a record of spending. Delete it to start from zero.") from error
