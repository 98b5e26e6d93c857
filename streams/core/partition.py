"""The ingest of one partition: raw records in, with each checkpoint everything that has to be written out.

Pure but for what it asks a :class:`streams.core.durable.Records`: what is stored of these customers, who is due, and
who comes next in a sweep. :class:`IngestPartition` never writes; :meth:`IngestPartition.checkpoint` returns a
:class:`streams.core.durable.IngestCheckpoint` with changed records, timers, outputs and the offsets they account for.
The caller makes it durable before the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Final

from msgspec import UNSET

from schemas import ids
from schemas.codec import NO_TIME_MS, DecodedEvent, source_of
from schemas.deadletter import Refused, refuse
from schemas.errors import DeadLetter, WrongPartition
from schemas.events import SOURCES, Profile, Withdrawal
from schemas.graph import GraphEdge
from schemas.heartbeat import HEARTBEAT_KEY
from schemas.predictions import Erasure, NextBestAction
from schemas.records import RawRecord
from schemas.snapshot import Outcome, Snapshot
from schemas.sweep import SWEEPS, Sweep
from schemas.topics import kept_after_erasure
from schemas.words import Words
from streams.core.cache import CustomerCache
from streams.core.config import CoreConfig
from streams.core.context import Context
from streams.core.customer import EDGES, HISTORY, TAIL, Customer, Pieces, read_record, read_snapshot, snapshot_piece
from streams.core.durable import NO_OFFSET, IngestCheckpoint, PartitionMeta, Piece, RecordChange, Records
from streams.core.entity_edges import drawn_edges, erased_edges
from streams.core.entries import Home, observe, read_entries
from streams.core.event import Event, event_name, uid_of
from streams.core.event_clock import NOT_OBSERVED_MS, EventClock
from streams.core.graph import edges_of, known_entities
from streams.core.labels import Pending, Resolved
from streams.core.lateness import check_not_too_late, erased_until_ms, is_ahead, is_opt_out, opt_out_at, withdraws
from streams.core.oddities import oddities
from streams.core.pace import is_sampled_out
from streams.core.revocations import revocation
from streams.core.state import Effect
from streams.core.sweeps import Conditions
from streams.core.watermark import Watermark
from streams.core.zones import UTC_ONLY, Zones

LABELS: Final = "\x1f"
"""Between the name of a count and the values of its labels."""
_MOST_SOURCES: Final = 32


class IngestPartition:
    """State of one partition between two checkpoints.

    Args:
        words: may serve several partitions.
        records: what is durable.
        meta: stored :class:`PartitionMeta`, None for a partition that was never written.
        cache_bytes: bound of decoded customers.
        idle_ms: see :class:`Watermark`.
        now_ms: clock of :class:`Watermark`.
        timers_per_checkpoint: bound of customers woken by event time in one checkpoint; the rest wait for the next.
        zones: the time zones that profiles and ``config`` may name.
        home: the partition that a key belongs to; absent, every record is where it belongs.
    """

    def __init__(
        self,
        partition: int,
        config: CoreConfig,
        words: Words,
        records: Records,
        meta: bytes | None,
        *,
        cache_bytes: int,
        idle_ms: int,
        now_ms: int,
        timers_per_checkpoint: int = 20_000,
        zones: Zones = UTC_ONLY,
        home: Home | None = None,
    ) -> None:
        known = PartitionMeta.decode(meta)
        self.partition = partition
        self.config = config
        self.cache = CustomerCache(cache_bytes)
        clocks = [
            EventClock(config.watermark_keys, newest_ms, confirmed)
            for newest_ms, confirmed in zip(known.newest_ms, known.confirmed, strict=True)
        ]
        self.watermark = Watermark(clocks, config.lateness_ms, idle_ms, now_ms, known.watermark_ms)
        self.counts: Counter[str] = Counter()
        self._words = words
        self._zones = zones
        self._records = records
        self._home = home
        self._sources: set[str] = set()
        self._next_offsets = known.next_offsets
        self._sweeps = known.sweeps
        self._swept = False
        self._refreshed: list[Snapshot] = []
        self._timers_per_checkpoint = timers_per_checkpoint
        self._scanned_ms = 0
        self._dirty: dict[str, Customer] = {}
        self._observed: set[str] = set()
        self._tombstones: dict[str, int] = {}
        self._pieces: list[Piece] = []
        self._awaiting_label: list[Snapshot] = []
        self._known_labels: list[tuple[str, Resolved] | Outcome] = []
        self._edges: list[GraphEdge] = []
        self._erasures: list[Erasure] = []
        self._revoked: dict[str, NextBestAction] = {}

    @property
    def next_offsets(self) -> dict[str, int]:
        """First offset of each source topic that has not been taken in; absent where none was."""
        found = {
            SOURCES[source_index]: offset
            for source_index, offset in enumerate(self._next_offsets)
            if offset != NO_OFFSET
        }
        return found | ({SWEEPS: self._sweeps.next_offset} if self._sweeps.next_offset else {})

    @property
    def changed(self) -> int:
        """Customers that the next checkpoint will write."""
        return len(self._dirty)

    @property
    def unsent(self) -> int:
        """Outputs and pieces that the next checkpoint will hand over."""
        lists = (self._refreshed, self._pieces, self._awaiting_label, self._known_labels, self._edges, self._erasures)
        return sum(len(found) for found in lists)

    @property
    def remembered_erasures(self) -> int:
        return len(self._tombstones)

    @property
    def sweep(self) -> Sweep | None:
        """The one that is under way."""
        return self._sweeps.waiting[0] if self._sweeps.waiting else None

    def take_sweeps(self, records: Sequence[RawRecord]) -> list[Refused]:
        """Take orders to sweep, in offset order; returns those that are none."""
        refused: list[Refused] = []
        for record in records:
            if record.offset >= self._sweeps.next_offset:
                self._sweeps.next_offset = record.offset + 1
                try:
                    self._sweeps.add(record.value)
                except DeadLetter as error:
                    refused.append(refuse(error, SWEEPS, self.partition, record))
        return refused

    def sweep_on(self, limit: int) -> None:
        """Look at the next ``limit`` customers of the sweep under way; the next checkpoint has their snapshots.

        Changes no customer and nothing of the cache. A customer who is first stored behind the sweep's place has just
        had a snapshot.
        """
        if self.sweep is None:
            return
        names, now_ms = Conditions(self.sweep), self.watermark.value_ms
        found = self._records.scan(self._sweeps.after, limit)
        held = [self.cache.peek(customer_id) for customer_id, _ in found]
        stored = self._decoded([pair for pair, known in zip(found, held, strict=True) if known is None])
        for (customer_id, _), known in zip(found, held, strict=True):
            customer = stored[customer_id][0] if known is None else known
            if names(customer.view(), now_ms) and (snapshot := customer.refreshed(now_ms)) is not None:
                self._refreshed.append(snapshot)
        self._swept = True
        self.counts["swept"] += len(found)
        if len(found) < limit:
            self._sweeps.end()
        else:
            self._sweeps.after = found[-1][0]

    def take(self, source_index: int, records: Sequence[RawRecord], now_ms: int) -> list[Refused]:
        """Apply a batch of one source topic, in offset order; returns the dead letters.

        Records that were taken in before are skipped, so any suffix of the log may be replayed.
        """
        next_offset = self._next_offsets[source_index]
        if records and records[0].offset < next_offset:
            self.counts["replayed"] += sum(record.offset < next_offset for record in records)
            records = [record for record in records if record.offset >= next_offset]
        if not records:
            return []
        entries, refused = read_entries(source_index, self.partition, records, self.config, self._home)
        if self._home is not None:
            self._count_misplaced(source_index, records, refused)
        customers = self._load(dict.fromkeys([entry.customer_id for entry in entries if type(entry) is DecodedEvent]))
        clock, taken = self.watermark.clocks[source_index], False
        for record, entry in zip(records, entries, strict=True):
            if entry is None:
                continue
            taken = True
            if isinstance(entry, int):
                self.counts["heartbeats"] += 1
            else:
                try:
                    self._apply(source_index, record, entry, customers)
                except DeadLetter as error:
                    if isinstance(entry.body, Profile) and entry.body.consent is not UNSET:
                        error = error.withdrawing(entry.customer_id)
                        withdrawal = DecodedEvent(entry.customer_id, None, NO_TIME_MS, Withdrawal(NO_TIME_MS))
                        self._apply(source_index, record, withdrawal, customers)
                    refused.append(refuse(error, SOURCES[source_index], self.partition, record))
            observe(clock, record, entry)
        if taken:
            self.watermark.observed(source_index, now_ms)
        refused.sort(key=attrgetter("offset"))
        self.counts["dead_lettered"] += len(refused)
        self._next_offsets[source_index] = records[-1].offset + 1
        return refused

    def checkpoint(self, now_ms: int) -> IngestCheckpoint:
        """Let event time pass, settle, and hand over everything that changed."""
        touched = frozenset(self._dirty)
        until_ms = self._wake(self.watermark.target_ms(now_ms))
        self.watermark.advance(until_ms)
        changes: list[RecordChange] = []
        snapshots: list[Snapshot] = []
        for customer_id, customer in self._dirty.items():
            advanced = customer.advance(until_ms, observed=customer_id in self._observed)
            self._collect(customer_id, advanced.effects)
            self.counts["tail_overflow"] += advanced.overflowed
            if advanced.snapshot is not None:
                snapshots.append(advanced.snapshot)
            if customer.is_tombstone and customer_id not in touched and until_ms > customer.forgotten_ms:
                changes.append(self._drop_tombstone(customer_id, customer))
            else:
                changes.append(self._change(customer_id, customer))
        meta = PartitionMeta(
            next_offsets=self._next_offsets,
            newest_ms=self.watermark.newest_ms,
            confirmed=[clock.encode() for clock in self.watermark.clocks],
            watermark_ms=self.watermark.value_ms,
            sweeps=self._sweeps,
        )
        done = IngestCheckpoint(
            changes,
            self._pieces,
            self._awaiting_label,
            self._outcomes(),
            self._refreshed + snapshots,
            self._edges,
            self._erasures,
            meta.encode(),
            self.next_offsets,
            self._swept,
            dict(self.counts),
            list(self._revoked.values()),
        )
        self._dirty, self._observed = {}, set()
        self._refreshed, self._swept = [], False
        self._pieces, self._awaiting_label, self._known_labels = [], [], []
        self._edges, self._erasures, self._revoked = [], [], {}
        return done

    def _collect(self, customer_id: str, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Snapshot():
                    self._awaiting_label.append(effect)
                case Outcome():
                    self._known_labels.append(effect)
                case Resolved():
                    self._known_labels.append((customer_id, effect))
                case Pending():
                    self.counts["pending_labels_dropped"] += 1

    def _outcomes(self) -> list[Outcome]:
        """Labels that are known now with their snapshots, which are read for all of them at once."""
        wanted = [
            (known[0], snapshot_piece(known[1].pending.question_id))
            for known in self._known_labels
            if not isinstance(known, Outcome)
        ]
        read = iter(self._records.load_pieces(wanted) if wanted else ())
        return [
            known if isinstance(known, Outcome) else known[1].outcome(known[0], read_snapshot(next(read)))
            for known in self._known_labels
        ]

    def written(self) -> None:
        """The last checkpoint is durable: customers that are clean may leave the cache."""
        self.cache.shrink(self._dirty)

    def customer(self, customer_id: str) -> Customer | None:
        """The customer as known now, None where there is none."""
        self._load({customer_id})
        return self.cache.get(customer_id)

    def _load(self, wanted: Collection[str]) -> dict[str, Customer]:
        """Those of the wanted customers that exist, now in the cache."""
        found: dict[str, Customer] = {}
        missing: list[str] = []
        for customer_id in wanted:
            known = self.cache.get(customer_id)
            if known is None:
                missing.append(customer_id)
            else:
                found[customer_id] = known
        self.counts["cache_misses"] += len(missing)
        self.counts["cache_hits"] += len(found)
        missing.sort()
        records = zip(missing, self._records.load(missing) if missing else (), strict=True)
        stored = self._decoded([(customer_id, record) for customer_id, record in records if record is not None])
        for customer_id, (customer, size_bytes) in stored.items():
            found[customer_id] = customer
            self.cache.put(customer_id, customer, size_bytes)
        return found

    def _decoded(self, records: Sequence[tuple[str, bytes]]) -> dict[str, tuple[Customer, int]]:
        """Customers of stored records with their pieces, and about how much is stored of each."""
        read = [(customer_id, record, read_record(record)) for customer_id, record in records]
        apart = [(customer_id, kind) for customer_id, _, stored in read for kind in stored.apart]
        pieces = dict(zip(apart, self._records.load_pieces(apart) if apart else (), strict=True))
        found: dict[str, tuple[Customer, int]] = {}
        for customer_id, record, stored in read:
            of_customer = Pieces(
                pieces.get((customer_id, EDGES)) or b"",
                pieces.get((customer_id, HISTORY)) or b"",
                self._records.pieces(customer_id, TAIL) if stored.older else (),
            )
            customer = Customer.of(self._context(customer_id), stored, of_customer)
            found[customer_id] = customer, customer.size_bytes(record)
        return found

    def _context(self, customer_id: str) -> Context:
        return Context(self.config, self._words, self.partition, customer_id, self._zones)

    def _apply(self, source_index: int, record: RawRecord, entry: DecodedEvent, customers: dict[str, Customer]) -> None:
        customer_id, ts_ms, event_id, body = entry.customer_id, entry.event_ts_ms, entry.event_id, entry.body
        offset, customer = record.offset, customers.get(customer_id)
        config, watermark, counts, late = self.config, self.watermark, self.counts, False
        if body is not None:
            clock, withdraws = watermark.clocks[source_index], is_opt_out(body)
            if ts_ms == NO_TIME_MS:
                said_ms = 0 if customer is None else customer.view().consent_ms
                body = opt_out_at(body, ts_ms, record.timestamp, clock, config, source_index, said_ms)
                ts_ms = body.event_ts_ms
            reached_ms = clock.newest_ms
            if ts_ms < reached_ms or ts_ms < watermark.value_ms:
                late = ts_ms < watermark.late_before_ms(source_index)
            if withdraws:  # counts at any time
                counts["ahead"] += NOT_OBSERVED_MS < reached_ms < ts_ms - config.ahead_ms
            elif ts_ms > reached_ms + config.ahead_ms:
                counts["ahead"] += is_ahead(ts_ms, reached_ms, config)
            elif ts_ms < reached_ms - config.ids_kept_ms:
                check_not_too_late(ts_ms, reached_ms, body, config)
        if customer is None:
            if body is None and self._home is not None and config.misplaced == "accept":
                raise WrongPartition(
                    f"nobody of this name is known in partition {self.partition}, and with core.misplaced=accept the "
                    "customer may be kept in another: send the erasure by the partitioner that the events are sent by"
                )
            customers[customer_id] = customer = Customer(self._context(customer_id))
            self.cache.put(customer_id, customer, 0)
        self._dirty[customer_id] = customer
        if body is None:
            self._erase(customer_id, customer, source_index, offset, ts_ms)
            return
        if event_id is None:
            event_id = event_name(source_index, self.partition, offset, body)
        uid = uid_of(source_index, event_id, body)
        if customer.knows(uid):
            counts["duplicates"] += 1
            return
        if config.key_limit_per_minute and is_sampled_out(customer.pace, body, uid, record.timestamp, config):
            counts["sampled_out"] += 1
            return
        if isinstance(body, Withdrawal):  # whose record is a dead letter, and counted as that
            counts["consent_withdrawn"] += 1
        else:
            counts["applied"] += 1
        for name in oddities(body, config, self._zones):
            counts[name] += 1
        for repair in entry.repairs:
            counts[LABELS.join(["repaired", SOURCES[source_index], *repair.split(" ")])] += 1
        if ts_ms <= customer.erased_ms:
            counts["erased"] += 1
            return
        placed_ms = self._placed_ms(source_index) if late else ts_ms
        if placed_ms < customer.settled.last_ms:  # its tail grew past the limit, and was settled before its time
            placed_ms, late = customer.settled.last_ms, True
        if late:
            counts["late"] += 1
        event = Event(placed_ms, source_index, event_id, uid, offset, record.timestamp, body, edges_of(body))
        self._insert(event, customer)
        self._observed.add(customer_id)
        self._edges += drawn_edges(event, customer_id, self.partition)

    def _count_misplaced(self, source_index: int, records: Sequence[RawRecord], refused: Sequence[Refused]) -> None:
        """By topic and ``ce_source``, as far as producers name it: Kafka does not say which client wrote a record."""
        if self.config.misplaced == "accept":
            assert self._home is not None
            home, here = self._home, self.partition
            found = [one for one in records if one.key and one.key != HEARTBEAT_KEY and home(one.key) != here]
        else:
            offsets = {one.offset for one in refused if one.reason == WrongPartition.reason}
            found = [one for one in records if one.offset in offsets] if offsets else []
        for record in found:
            source = source_of(record.headers)
            if source not in self._sources and len(self._sources) >= _MOST_SOURCES:
                source = "other"
            self._sources.add(source)
            self.counts[LABELS.join(["misplaced", SOURCES[source_index], source])] += 1

    def _insert(self, event: Event, customer: Customer) -> None:
        """Take an event in; one that takes consent back revokes what was decided on it."""
        if not withdraws(event.body):
            customer.insert(event)
            return
        before = customer.view().consent or ()
        customer.insert(event)
        taken = set(before).difference(customer.view().consent or ())
        if taken or not isinstance(event.body, Profile):
            customer_id, source = (
                customer.context.customer_id,
                (SOURCES[event.source_index], self.partition, event.offset),
            )
            # Not before any decision of before: not those after the customer's newest event, nor those of a sweep.
            as_of_ms = max(customer.view().last_ms, self.watermark.value_ms)
            self._revoked[customer_id] = revocation(
                customer_id, "CONSENT_WITHDRAWN", as_of_ms, source, event.body.event_ts_ms
            )

    def _placed_ms(self, source_index: int) -> int:
        """Where a late event is folded in: the event time that its topic has reached, a function of the log."""
        return max(self.watermark.clocks[source_index].newest_ms, self.watermark.value_ms)

    def _erase(self, customer_id: str, customer: Customer, source_index: int, offset: int, at_ms: int) -> None:
        source = (SOURCES[source_index], self.partition, offset)
        if at_ms <= customer.erased_ms:
            self.counts["duplicates"] += 1  # said twice: what came after it stays, and there is a receipt again
        else:
            self.counts["applied"] += 1
            until_ms = erased_until_ms(at_ms, self.watermark.clocks[source_index].newest_ms, self.config)
            gone = known_entities(customer.view().graph)
            touched_ms = [event.ts_ms for event in customer.tail if event.body.event_ts_ms <= until_ms]
            customer_ms = max(until_ms, customer.settled.last_ms, *touched_ms)
            self._edges += erased_edges(gone, customer_id, customer_ms, source)
            # Behind all that was decided; what is decided on events from after the erasure comes later still.
            as_of_ms = max(customer_ms, self.watermark.value_ms) + 1
            self._revoked[customer_id] = revocation(customer_id, "CUSTOMER_ERASED", as_of_ms, source, at_ms)
            customer.erase(until_ms)
        self._erasures.append(
            Erasure(
                receipt_id=ids.receipt_id(customer_id, at_ms),
                customer_id=customer_id,
                erased_ms=at_ms,
                source=source,
                kept_days=kept_after_erasure(),
            )
        )

    def _wake(self, target_ms: int) -> int:
        """Load the customers that are due by ``target_ms``; returns how far event time may go in this checkpoint."""
        if target_ms <= self._scanned_ms:
            return target_ms
        # Whoever was due by the last scan was settled and now waits for a later time, so the index behind
        # it, full of deleted keys, need not be read again.
        due = self._records.due(self._scanned_ms + 1, target_ms, self._timers_per_checkpoint)
        if len(due) >= self._timers_per_checkpoint:
            target_ms = due[-1][0]
        self.counts["timers_fired"] += len(due)
        woken = {customer_id for _, customer_id in due}
        erased = {customer_id for customer_id, forgotten_ms in self._tombstones.items() if forgotten_ms < target_ms}
        woken |= erased
        self._load(woken)
        for customer_id in sorted(woken):
            customer = self.cache.get(customer_id)
            if customer is not None:
                self._dirty.setdefault(customer_id, customer)
        self._scanned_ms = target_ms
        return target_ms

    def _change(self, customer_id: str, customer: Customer) -> RecordChange:
        if customer.is_tombstone:
            self._tombstones[customer_id] = customer.forgotten_ms
        else:
            self._tombstones.pop(customer_id, None)
        record, pieces, size_bytes = customer.encode()
        self._pieces += [Piece(customer_id, name, value) for name, value in pieces]
        self.cache.resize(customer_id, size_bytes)
        old_due_ms, new_due_ms = customer.indexed_ms, customer.due_or_never_ms()
        customer.indexed_ms = new_due_ms
        return RecordChange(customer_id, record, old_due_ms, new_due_ms)

    def _drop_tombstone(self, customer_id: str, customer: Customer) -> RecordChange:
        """Drop the last trace of an erased customer.

        Records that were dropped because of the erasure were committed in an earlier checkpoint, and older events
        come too late by now: nothing can bring the customer back.
        """
        self._tombstones.pop(customer_id, None)
        self.cache.remove(customer_id)
        return RecordChange(customer_id, None, customer.indexed_ms, -1)
