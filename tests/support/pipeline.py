"""A whole pipeline on a broker, for integration tests: worker processes that can be killed, and what they left."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from schemas.snapshot import Outcome, Snapshot
from streams.brokers.processes import Child, tail_of, worker_environment
from streams.kafka import offsets
from streams.state import keys
from streams.state.rocks import RocksStore, shared_memory

GROUPS: Final = {
    "ingest": ("clickstream", "campaign-sends", "redemptions", "profiles"),
    "encode": ("session-snapshots",),
    "entities": ("graph-edges",),
}
_QUIET_S: Final = 1.5

_snapshot: Final = msgspec.msgpack.Decoder(Snapshot).decode
_outcome: Final = msgspec.msgpack.Decoder(Outcome).decode


class Pipeline:
    """One deployment under a prefix. Workers share the model; each has a state folder of its own."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        partitions: int,
        model: Path,
        folder: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.prefix, self.partitions = prefix, partitions
        self.client: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._environment = worker_environment(
            {
                "kafka.bootstrap": bootstrap,
                "kafka.prefix": prefix,
                "kafka.partitions": partitions,
                "kafka.session_timeout_ms": 6_000,
                "model_dir": model,
                "ingest.idle_ms": 0,
                "encode.threads": 1,
            }
        ) | dict(settings or {})
        self._folder = folder
        self.workers: list[Child] = []

    def start_worker(self, name: str = "w0", roles: str = "ingest,encode,entities,learn") -> Child:
        """Start a worker process; its state is that of any earlier worker of the same name."""
        log = self.log(name)
        child = Child(
            [sys.executable, "-m", "streams.cli", "worker", "--roles", roles],
            log,
            env=self._environment | {"PULSEGRAPH_STATE_DIR": str(self.state_dir(name))},
        )
        self.workers.append(child)
        return child

    def state_dir(self, name: str = "w0") -> Path:
        return self._folder / name

    def log(self, name: str = "w0") -> Path:
        return self._folder / f"{name}.log"

    def stop(self) -> None:
        for worker in self.workers:
            if worker.running:
                worker.send_signal(signal.SIGCONT)
            worker.stop(timeout_s=30.0)

    def taken(self) -> int:
        """Records of the source topics whose offsets ingest has committed."""
        return sum(lag.committed or 0 for lag in self._lags("ingest"))

    def await_taken(self, records: int, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while self.taken() < records:
            self._check(deadline, f"ingest has committed {self.taken()} of {records} records")
            time.sleep(0.05)

    def await_drained(self, timeout_s: float = 240.0) -> None:
        """Until no group has lag, for a while."""
        deadline, quiet_since = time.monotonic() + timeout_s, None
        while quiet_since is None or time.monotonic() - quiet_since < _QUIET_S:
            lag = {group: sum(entry.lag for entry in self._lags(group)) for group in GROUPS}
            quiet_since = None if any(lag.values()) else quiet_since or time.monotonic()
            self._check(deadline, f"lag is {lag}")
            time.sleep(0.2)

    def _check(self, deadline: float, what: str) -> None:
        logs = "\n".join(tail_of(path) for path in sorted(self._folder.glob("*.log")))
        if not any(worker.running for worker in self.workers):
            raise AssertionError(f"no worker is running: {logs}")
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}; {logs}")

    def _lags(self, group: str) -> list[offsets.Lag]:
        topics = [self.prefix + topic for topic in GROUPS[group]]
        return offsets.consumer_lag(self.client, f"{self.prefix}pulsegraph-{group}", topics)

    def read(self, topic: str) -> list[Any]:
        """Every record of a topic, in order within its partitions."""
        places = [(self.prefix + topic, partition) for partition in range(self.partitions)]
        ends = {place: end for place, end in offsets.end_offsets(self.client, places).items() if end}
        consumer = Consumer({**self.client, "group.id": "test-reader", "enable.auto.commit": False})
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in ends])
        messages: list[Any] = []
        while ends:
            for message in offsets.available(consumer, 5_000, 1.0):
                assert message.error() is None, message.error()
                messages.append(message)
                place: Any = (message.topic(), message.partition())
                if (message.offset() or 0) + 1 >= ends.get(place, 1 << 62):
                    del ends[place]
        consumer.close()
        return messages

    def outcomes(self) -> dict[str, bytes]:
        """Outcome id -> record. A repeated one must repeat itself."""
        found: dict[str, bytes] = {}
        for message in self.read("outcomes"):
            outcome = _outcome(message.value())
            assert found.setdefault(outcome.outcome_id, message.value()) == message.value()
        return found

    def last_snapshots(self) -> dict[tuple[str, str], bytes]:
        """(customer, kind) -> the last snapshot."""
        found: dict[tuple[str, str], bytes] = {}
        for message in self.read("session-snapshots"):
            if message.value() is None:
                continue  # the customer was erased
            snapshot = _snapshot(message.value())
            found[snapshot.customer_id, snapshot.kind] = message.value()
        return found

    def predictions(self, topic: str) -> dict[str, dict[str, Any]]:
        """Prediction id -> prediction, in order of publication."""
        return {found["prediction_id"]: found for found in map(_json, self.read(topic))}


def stored(folders: Iterable[Path]) -> dict[tuple[str, str, bytes], bytes]:
    """(role, partition, key) -> value of everything that stopped workers left on disk, meta records aside."""
    found: dict[tuple[str, str, bytes], bytes] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/p?????")):
            store = RocksStore(path, shared_memory(8 << 20))
            for key, value in store.scan(b"", b"\xff"):
                if key != keys.META:
                    found[path.parent.name, path.name, key] = value
            store.close()
    return found


def differences(found: Mapping[Any, bytes], expected: Mapping[Any, bytes], at_most: int = 20) -> list[str]:
    """Where two states differ, readable; a state has thousands of records, and a report of all of them says nothing."""
    places = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    lines = [f"{key}: {_readable(found.get(key))}, expected {_readable(expected.get(key))}" for key in places[:at_most]]
    return lines + ([f"and {len(places) - at_most} more"] if len(places) > at_most else [])


def _readable(record: bytes | None) -> object:
    return msgspec.msgpack.decode(record) if record else record


def _json(message: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(message.value())
    return decoded
