"""Small logs of source events for property tests, and the many ways in which they can arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import msgspec
from hypothesis import strategies as st

from schemas import codec, heartbeat
from schemas.errors import TooLate
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS, SOURCES
from schemas.records import LogRecord
from schemas.snapshot import Outcome, Snapshot
from schemas.words import Words
from streams.core import customer, history
from streams.core.config import DAY_MS, MINUTE_MS, CoreConfig
from streams.core.customer import CustomerRecord, snapshot_piece
from streams.core.durable import IngestCheckpoint
from streams.core.partition import IngestPartition
from streams.settings.zones import INSTALLED
from streams.state import keys
from streams.state.checkpoints import StoredRecords, local_batch, read_meta
from streams.state.contract import KeyValue
from streams.state.memory import MemoryStore

START_MS = 1_500_000_000_000
CONFIG = CoreConfig(
    lateness_ms=5 * MINUTE_MS,
    watermark_keys=1,
    ids_kept_ms=DAY_MS,
    horizon_every_ms=DAY_MS,
    churn_horizon_ms=3 * DAY_MS,
    churn_active_ms=3 * DAY_MS,
    redemption_window_ms=2 * DAY_MS,
    edges_per_type=4,
    recent_ids=64,
    timeline_words=24,
    fresh_edges=3,
    sample_share=0.2,
    sends_kept=3,
    orders_kept=2,
    order_window_ms=DAY_MS,
    rates={"USD": 0.92},
)

Log = list[list[LogRecord]]
"""Per source topic, records in offset order."""


@contextmanager
def more_pieces() -> Iterator[None]:
    """Tails of three events, and histories of two sessions, have pieces already; edges do by ``CONFIG.fresh_edges``."""
    with (
        mock.patch.multiple(customer, _NEWEST_EVENTS=2),
        mock.patch.multiple(history, FRESH_ENTRIES=2, SINGLE_ENTRIES=3),
    ):
        yield


class Sent(NamedTuple):
    """One event before it has an offset."""

    source_index: int
    customer: str
    ts_ms: int
    body: dict[str, Any] | None


_ITEMS = ["a", "b", "c", "d", "e", "f", "unknown-1"]
_NAMES = ["purchase"] * 3 + ["item_view", "page_view", "add_to_cart", "loyalty_scan", "refund", "return"]
_PRICES = st.sampled_from([None, 0.0, 0.1, 2.5, 19.99, -3.0])
_QUANTITIES = st.sampled_from([None, 0.0, 1.0, 3.0])


def _line(draw: Any, quantities: st.SearchStrategy[float | None]) -> dict[str, Any]:
    said = {"item_id": draw(st.sampled_from(_ITEMS)), "price": draw(_PRICES), "quantity": draw(quantities)}
    said |= {"category": draw(st.sampled_from([None, "tea", "coffee"])), "title": "nice thing"}
    return {name: value for name, value in said.items() if value is not None}


def clickstream(draw: Any) -> dict[str, Any]:
    """What shops send: lines or one product, orders that interleave, returns in every form, currencies, free items."""
    name = draw(st.sampled_from(_NAMES))
    signed = name in ("purchase", "refund", "return")
    quantities = st.one_of(_QUANTITIES, st.sampled_from([-1.0, -2.0])) if signed else _QUANTITIES
    if draw(st.integers(0, 2)) == 0:
        said: dict[str, Any] = {"items": [_line(draw, quantities) for _ in range(draw(st.integers(0, 4)))]}
    else:
        said = _line(draw, quantities)
    said["value"] = draw(st.sampled_from([None, None, 0.0, 2.5, -2.5]))
    said["order_id"] = draw(st.sampled_from([None, "o1", "o2", "o3"]))
    said["currency"] = draw(st.sampled_from([None, None, "EUR", "usd", "JPY"]))
    said["channel"] = draw(st.sampled_from([None, None, "app"]))
    return {"event": name} | {name: value for name, value in said.items() if value is not None}


def _event(source_index: int, draw: Any) -> dict[str, Any]:
    if source_index == CLICKSTREAM:
        return clickstream(draw)
    if source_index == CAMPAIGN_SENDS:
        return {
            "event": draw(st.sampled_from(["send", "open", "click", "unsubscribe"])),
            "campaign_id": draw(st.sampled_from(["x", "y"])),
            "channel": draw(st.sampled_from(["email", "email", "Email ", "mail", ""])),
            "offer_id": "o",
        }
    if source_index == REDEMPTIONS:
        return {"offer_id": "o", "campaign_id": draw(st.sampled_from(["x", "y", "z"]))}
    zone = draw(st.sampled_from([None, "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Mars/Olympus"]))
    granted = draw(st.sampled_from([True, False, "false"]))
    consent = draw(st.sampled_from([{"consent": {"E-Mail": {"marketing": granted}}}, {"consent": None}, {}]))
    said: dict[str, Any] = consent if zone is None else consent | {"timezone": zone}
    return said


@st.composite
def with_late_ones(draw: Any, events: st.SearchStrategy[list[Sent]]) -> list[Sent]:
    """The same with some events far out of their order: later than the bound, as their own topic tells."""
    sent = draw(events)
    positions = [place for place in range(len(sent)) if draw(st.integers(0, 5)) == 0]
    moved = [sent[place] for place in positions]
    return [one for place, one in enumerate(sent) if place not in positions] + moved


@st.composite
def sent_events(draw: Any, erasures: bool = False) -> list[Sent]:
    """Events of a few customers over a few days, in event-time order, each with an id."""
    steps = st.sampled_from([0, 0, 1, 1000, MINUTE_MS, 4 * MINUTE_MS, 31 * MINUTE_MS, DAY_MS // 2, 2 * DAY_MS])
    now_ms, events = START_MS, []
    for number in range(draw(st.integers(1, 40))):
        now_ms += draw(steps)
        source_index = draw(
            st.sampled_from([CLICKSTREAM, CLICKSTREAM, CLICKSTREAM, CAMPAIGN_SENDS, REDEMPTIONS, PROFILES])
        )
        body: dict[str, Any] | None = _event(source_index, draw) | {"event_ts_ms": now_ms, "event_id": f"e{number:04}"}
        if erasures and source_index == PROFILES and draw(st.booleans()):
            body = None
        events.append(Sent(source_index, draw(st.sampled_from(["c1", "c2", "c3"])), now_ms, body))
    return events


def record(sent: Sent, offset: int) -> LogRecord:
    value = None if sent.body is None else codec.json_encode(sent.body)
    return LogRecord(offset, sent.customer.encode(), value, (), sent.ts_ms)


def log_of(events: Sequence[Sent], until_ms: int | None = None) -> Log:
    """The topics as produced in this order, closed by a heartbeat on each at ``until_ms``."""
    topics: Log = [[] for _ in SOURCES]
    for sent in events:
        topics[sent.source_index].append(record(sent, len(topics[sent.source_index])))
    if until_ms is not None:
        key, value, headers = heartbeat.encode(until_ms)
        for topic in topics:
            topic.append(LogRecord(len(topic), key, value, headers, until_ms))
    return topics


class Worker:
    """One partition with a durable store, that can be killed between and inside checkpoints."""

    def __init__(self, config: CoreConfig = CONFIG, cache_bytes: int = 1 << 30) -> None:
        self.store: KeyValue = MemoryStore()
        self.outcomes: dict[str, bytes] = {}
        self.snapshots: dict[tuple[str, str], bytes] = {}
        self.edges: list[Any] = []
        self.refused: set[bytes] = set()
        self._config, self._cache_bytes = config, cache_bytes
        self.restart()

    def restart(self) -> None:
        """Lose everything that is not durable."""
        self.ingest = IngestPartition(
            0,
            self._config,
            Words(),
            StoredRecords(self.store),
            read_meta(self.store).partition,
            cache_bytes=self._cache_bytes,
            idle_ms=0,
            now_ms=0,
            zones=INSTALLED,
        )

    def take(self, source_index: int, records: Sequence[LogRecord]) -> None:
        for refused in self.ingest.take(source_index, records, 0):
            assert refused.reason == TooLate.reason
            self.refused.add(dict(refused.headers)["dl_id"])

    def checkpoint(self) -> None:
        done = self.ingest.checkpoint(0)
        self.deliver(done)
        self.store.write(local_batch(done, -1))
        self.ingest.written()

    def deliver(self, done: IngestCheckpoint) -> None:
        """What reaches the output topics, in order."""
        encode = codec.msgpack_encode
        for outcome in done.outcomes:
            value = encode(outcome)
            assert self.outcomes.setdefault(outcome.outcome_id, value) == value, "an outcome changed its mind"
        for snapshot in (*done.awaiting_label, *done.snapshots):
            self.snapshots[snapshot.customer_id, snapshot.kind] = encode(snapshot)
        self.edges += done.edges

    def die_while_writing(self) -> None:
        """Killed after outputs were delivered and before the checkpoint counts, see :mod:`streams.state.ownership`."""
        self.deliver(self.ingest.checkpoint(0))
        self.restart()

    def snapshot_pieces(self, customer_id: str) -> list[bytes]:
        """Stored snapshots of pending labels."""
        return StoredRecords(self.store).pieces(customer_id, snapshot_piece("")[:1])

    def state(self) -> dict[bytes, bytes]:
        """Everything stored, tombstones aside: they may be dropped a checkpoint earlier or later."""
        pairs = dict(self.store.scan(b"", b"\xff"))
        tombstones = {key[1:] for key, value in pairs.items() if key[:1] == keys.RECORD and _is_tombstone(value)}
        return {
            key: value
            for key, value in pairs.items()
            if not any(key.endswith(tombstone) for tombstone in tombstones) or key == b"m"
        }


def without_erasures(state: dict[bytes, bytes], customers: set[str]) -> dict[bytes, bytes]:
    """State in which these customers' records do not say that they were erased before.

    Who comes back after an erasure begins a new record if the tombstone was dropped by then, and goes on with the
    old one if not: what is remembered of the person is the same.
    """
    keys_of = {keys.record(customer) for customer in customers}
    return {
        key: codec.msgpack_encode(msgspec.structs.replace(_decode_record(value), erased_ms=-1))
        if key in keys_of
        else value
        for key, value in state.items()
    }


_decode_record = msgspec.msgpack.Decoder(CustomerRecord).decode
_decode_snapshot = msgspec.msgpack.Decoder(Snapshot).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode


def _is_tombstone(value: bytes) -> bool:
    stored: CustomerRecord = _decode_record(value)
    return stored.is_tombstone


def content(worker: Worker) -> dict[Any, Any]:
    """State and outcomes without positions in the log: what must agree between logs in another order."""
    seen: dict[Any, Any] = {}
    for key, _ in worker.store.scan(keys.RECORD, keys.RECORDS_STOP):
        customer_id = key[len(keys.RECORD) :].decode()
        known = worker.ingest.customer(customer_id)
        assert known is not None
        settled = known.settled.copy()
        settled.applied, settled.source = [], (0, 0, 0)
        settled.pending = [msgspec.structs.replace(entry, question_id="") for entry in settled.pending]
        older = None if settled.graph.older is None else settled.graph.older.edges
        settled.graph = msgspec.structs.replace(settled.graph, older=None)
        snapshots = [_placeless(_decode_snapshot(piece)) for piece in worker.snapshot_pieces(customer_id)]
        seen[key] = (codec.msgpack_encode((settled, older)), sorted(snapshots), [event.order for event in known.tail])
    for value in worker.outcomes.values():
        outcome = _decode_outcome(value)
        what = outcome.snapshot
        asked = (outcome.head, outcome.customer_id, outcome.as_of_ms, outcome.resolved_ms)
        told = (outcome.labels, None if what is None else _placeless(what))
        seen[asked] = [*seen.get(asked, []), told]
    for asked in seen:  # two sends of one instant
        seen[asked] = sorted(seen[asked], key=repr) if isinstance(seen[asked], list) else seen[asked]
    return seen


def _placeless(snapshot: Snapshot) -> bytes:
    return codec.msgpack_encode(
        msgspec.structs.replace(snapshot, question_id="", applied={}, source=("", 0, 0), ingest_ts_ms=0)
    )


def arrivals(draw: Any, log: Log) -> Iterator[tuple[int, list[LogRecord]]]:
    """Some interleaving of the topics, in batches of some size, each topic in offset order."""
    rest = [list(topic) for topic in log]
    while any(rest):
        source_index = draw(st.sampled_from([source_index for source_index, topic in enumerate(rest) if topic]))
        size = draw(st.integers(1, max(1, len(rest[source_index]))))
        yield source_index, rest[source_index][:size]
        del rest[source_index][:size]


def undisturbed(log: Log, **kwargs: Any) -> Worker:
    """A worker that took each topic in one batch."""
    worker = Worker(**kwargs)
    for source_index, topic in enumerate(log):
        worker.take(source_index, topic)
    worker.checkpoint()
    worker.checkpoint()
    return worker


def restarted(draw: Any, log: Log, config: CoreConfig) -> Worker:
    """A worker that took the topics in any interleaving, with checkpoints in between, and was restarted after some."""
    worker = Worker(config)
    for source_index, batch in arrivals(draw, log):
        worker.take(source_index, batch)
        if draw(st.booleans(), "checkpoint"):
            worker.checkpoint()
            if draw(st.booleans(), "restart"):
                worker.restart()
    worker.checkpoint()
    worker.checkpoint()
    return worker
