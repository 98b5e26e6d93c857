"""Producers that write in transactions, and what a reader of committed records may see of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Producer


class Transactional:
    """One producer with transactions, one at a time; what is open when it is closed is left open."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": f"t{uuid.uuid4().hex}",
                "transaction.timeout.ms": 600_000,
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        self._producer.init_transactions(30)
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            self.abort()

    def write(self, topic: str, bodies: Iterable[dict[str, Any]], key: bytes = b"42", partition: int = 0) -> None:
        """Add to the open transaction, or begin one; they are in the log when this returns."""
        if not self._is_open:
            self._producer.begin_transaction()
            self._is_open = True
        for body in bodies:
            self._producer.produce(topic, json.dumps(body).encode(), key, partition)
        assert self._producer.flush(30) == 0

    def commit(self) -> None:
        self._producer.commit_transaction(30)
        self._is_open = False

    def abort(self) -> None:
        self._producer.abort_transaction(30)
        self._is_open = False
