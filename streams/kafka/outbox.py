"""Output records: sending never waits for the broker, and one barrier says that all of them arrived.

Sending costs about a microsecond and makes no future. A thread serves librdkafka's delivery reports and counts them per
*span*, the sends between two marks; counting over all sends would be wrong, since reports of different partitions
overtake each other. A report takes the interpreter lock once, so the thread serves them when somebody waits at a
barrier (or for room in the queue), not while the event loop computes: serving side by side made a send three times
slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from confluent_kafka import KafkaError, KafkaException, Message

from schemas.errors import DeliveryFailed
from schemas.records import OutputRecord
from streams.kafka.clients import Producer

Headers = Sequence[tuple[str, str | bytes | None]]

MAX_RECORD_BYTES: Final = 8 << 20  # what the changelog topics take
ANY_PARTITION: Final = -1  # librdkafka: ask the partitioner
NOW: Final = 0  # librdkafka: the time of the send
_POLL_S: Final = 0.05
_IDLE_S: Final = 0.5  # without a barrier, reports are served this often
_FULL_SLEEP_S: Final = 0.001
_LOG_EVERY_S: Final = 10.0

logger: Final = logging.getLogger(__name__)


class _Span:
    """Sends between two marks. ``sent`` is written by the sender, ``acked`` by the polling thread alone."""

    __slots__ = ("acked", "closed", "index", "outbox", "sent")

    def __init__(self, outbox: Outbox, index: int) -> None:
        self.outbox = outbox
        self.index = index
        self.sent = 0
        self.acked = 0
        self.closed = False

    def on_report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.outbox._on_failure(error, message)
        self.acked += 1
        if self.closed and self.acked == self.sent:
            self.outbox._wake()

    def on_tracked_report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            # Reports of one partition come in offset order.
            self.outbox._offsets[message.topic(), message.partition()] = message.offset()
        self.on_report(error, message)


class Outbox:
    """The producer of one role. All methods belong to one thread, the event loop's.

    The first record that fails is final: every later barrier raises, so that nothing can be committed past it, and
    no later record of its key is taken for the newest one.

    Args:
        bootstrap: ``host:port[,host:port]``.
        prefix: put before every topic.
        linger_ms: how long a batch waits to fill.
        queue_records: sends beyond this many unacknowledged records wait for room.
        queue_bytes: the same in bytes.
        delivery_timeout_ms: a record not acknowledged for this long has failed.
        config: further librdkafka settings: security, compression.

    Example:
        >>> outbox = Outbox("127.0.0.1:9092", prefix="shop.")  # doctest: +SKIP
        >>> outbox.send_all([OutputRecord("predictions.churn", b"customer-1", b"{}")])  # doctest: +SKIP
        >>> await outbox.delivered(outbox.mark(), timeout_s=10)  # doctest: +SKIP
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        prefix: str = "",
        linger_ms: float = 2.0,
        queue_records: int = 200_000,
        queue_bytes: int = 256 * 1024 * 1024,
        delivery_timeout_ms: int = 60_000,
        config: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        self._prefix = prefix
        self._names: dict[str, str] = {}
        self._offsets: dict[tuple[str | None, int | None], int | None] = {}
        self._failure: str | None = None
        self._quiet_until_s = 0.0
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._span = _Span(self, 0)
        self._spans = deque([self._span])  # not known to be delivered, oldest first; the last one is open
        settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": linger_ms,
            "message.max.bytes": MAX_RECORD_BYTES,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": queue_records,
            "queue.buffering.max.kbytes": max(1, queue_bytes // 1024),
            "message.timeout.ms": delivery_timeout_ms,
            "error_cb": self._on_client_error,  # type: ignore[dict-item]
            **(config or {}),
        }
        self._producer = Producer(settings)
        self._produce = self._producer.produce
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._serve_reports, name="outbox", daemon=True)
        self._thread.start()

    def send(
        self,
        topic: str,
        key: bytes | str | None,
        value: bytes | None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue one record.

        Blocks the thread only while the queue is full: then the broker is slower than the work, and heartbeats, which
        have their own thread, go on.

        Args:
            topic: logical name.
            partition: explicit, and then its newest offset is kept (:meth:`offset`); None hashes the key as Kafka does.
            timestamp_ms: record timestamp; None is now.

        Raises:
            DeliveryFailed: the record can never be sent, e.g. it is larger than ``message.max.bytes``.
        """
        pairs = cast("list[tuple[str, str | bytes | None]] | None", headers)  # the client's stubs want a list
        name = self._names.get(topic)
        if name is None:
            name = self._names[topic] = self._prefix + topic
        span = self._span
        span.sent += 1
        while True:
            try:
                if partition is None:
                    self._produce(name, value, key, ANY_PARTITION, span.on_report, None, timestamp_ms or NOW, pairs)
                else:
                    self._produce(name, value, key, partition, span.on_tracked_report, None, timestamp_ms or NOW, pairs)
            except BufferError:
                self._wanted.set()
                time.sleep(_FULL_SLEEP_S)
            except KafkaException as exc:
                span.sent -= 1
                raise DeliveryFailed(f"{name}: {exc.args[0]}") from exc
            else:
                return

    def send_all(self, records: Iterable[OutputRecord]) -> None:
        """Queue what a role has made; see :meth:`send`."""
        send = self.send
        for record in records:
            send(record.topic, record.key, record.value, record.partition, list(record.headers) or None)

    def mark(self) -> int:
        """A point in the sequence of sends, for :meth:`delivered`."""
        span = self._span
        if span.sent:
            self._span = _Span(self, span.index + 1)
            self._spans.append(self._span)
            span.closed = True
            return span.index
        return span.index - 1

    async def delivered(self, mark: int, timeout_s: float) -> None:
        """Wait until every record sent before ``mark`` is acknowledged by all in-sync replicas.

        Raises:
            DeliveryFailed: a record of this outbox failed, or the time is over.
            ConfigError: the same, since the broker refuses the login or the certificate by now.
        """
        if self._settled(mark):
            return
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        self._waiters.append(waiter)
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._settled(mark):
                    await event.wait()
                    event.clear()
        except TimeoutError as exc:
            self._producer.refusal.check()
            missing = sum(span.sent - span.acked for span in self._spans if span.index <= mark)
            raise DeliveryFailed(f"{missing} records were not acknowledged within {timeout_s:g} s") from exc
        finally:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._wanted.clear()

    def offset(self, topic: str, partition: int) -> int | None:
        """Offset of the newest acknowledged record that was sent to this explicit partition; None before the first."""
        return self._offsets.get((self._prefix + topic, partition))

    @property
    def unacknowledged(self) -> int:
        """Records queued or in flight: above ``queue_records`` sends begin to wait."""
        return len(self._producer)

    def close(self, timeout_s: float = 5.0) -> int:
        """Wait for what is queued, at most ``timeout_s``, then give up on the rest. Safe to repeat.

        Returns:
            Number of records given up.
        """
        if self._stopping.is_set():
            return 0
        left = self._producer.flush(timeout_s)
        self._stopping.set()
        self._wanted.set()
        self._thread.join()
        if left:
            self._producer.purge()
            self._producer.flush(1.0)
        return left

    def _settled(self, mark: int) -> bool:
        if self._failure is not None:
            self._producer.refusal.check()
            raise DeliveryFailed(self._failure)
        spans = self._spans
        while spans[0].closed and spans[0].acked == spans[0].sent:
            spans.popleft()
        return spans[0].index > mark

    def _serve_reports(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(_POLL_S if self._wanted.wait(_IDLE_S) else 0)

    def _on_failure(self, error: KafkaError, message: Message) -> None:
        if self._failure is None:
            self._failure = f"{message.topic()} [{message.partition()}]: {error.str()}"
        self._wake()

    def _wake(self) -> None:
        for loop, event in self._waiters.copy():
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(event.set)

    def _on_client_error(self, error: KafkaError) -> None:
        # Retried by librdkafka, and repeated for every attempt to connect.
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + _LOG_EVERY_S
            logger.warning("producer: %s", error.str())
