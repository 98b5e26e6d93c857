"""Kafka batches through Faust's own consumer, without Faust's price per record.

Faust builds an Event, a Message, a queue put and an ack for every record, which bounds an empty agent to about 12,000
records/s. Here the consumer keeps Faust's group membership, rebalance callbacks, consumer thread and lifecycle, but
hands each partition's fetch over as one list, and commits what the role asks for instead of what was acked.

The agent pulls: its stream asks :meth:`BatchConsumer.next_batch` for a batch when the one before is done. No queue lies
between, so there is nothing to bound, to empty at a rebalance or to lose; aiokafka's fetcher reads ahead meanwhile. Who
fetches, restores and seeks is that one coroutine, so none of the three overlap with each other or with the role.
Every fetch is bound to the aiokafka ``Assignment`` object it started under, the *token*: each rebalance makes a new
one, and positions live inside it, so a fetch of an older token can be dropped and is read again from the committed
offset.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, cast

import aiokafka
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
)
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata
from faust.transport.consumer import ensure_TPset
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.types import ServiceT

from schemas.records import LogRecord
from streams.kafka.cut_positions import Cut, watch
from streams.kafka.read_places import ReadPlaces
from streams.kafka.tolerant_records import tolerate

#: Upper bound in seconds of one wait for records.
FETCH_TIMEOUT_S: Final = 0.5
#: aiokafka leaves the group when nobody fetched for ``broker_max_poll_interval``; the consumer reports in this often.
KEEPALIVE_S: Final = 5.0
COMMIT_TIMEOUT_S: Final = 30.0
#: How old a broker's word on where a partition ends may be. Every fetch says it, and is answered after milliseconds.
CURRENT_S: Final = 2.0
#: Faust asks the broker to hold an empty fetch for 1.5 s; a partition that resumes waits for that answer first.
#: The embedded broker looks for new records only when a fetch's wait is over, so a long wait is latency there. Apache
#: Kafka answers as soon as there are FETCH_MIN_BYTES, and a short wait costs a few empty answers a second.
FETCH_MAX_WAIT_MS: Final = 20
#: A fetch for every few records costs more than the records: at 500 events/s on Apache Kafka a worker of all roles took
#: 0.73 of a core with 1 byte here and 0.53 with many, for 15 ms of latency.
FETCH_MIN_BYTES: Final = 1 << 16
#: How old what is known of topics may be: more partitions are noticed within this time. By default it is 5 minutes.
METADATA_MAX_AGE_MS: Final = 5_000
#: Most records that one topic partition gets ahead of the others where they are read by event time.
RECORDS_AHEAD: Final = 4_000

#: A fetch by partition, in the order in which it is handed out.
Records = dict[TP, list[LogRecord]]


class AssignmentHandler(Protocol):
    """Who gets ready for partitions and lets go of them. Every call is made on the app's event loop."""

    async def assigned(self, partitions: set[TP]) -> Mapping[TP, int]:
        """Make ready for these partitions. Nothing is fetched before this returns.

        Returns:
            First offset to read, for partitions that shall not start at the committed one.
        """

    async def revoked(self) -> None:
        """Finish and let go of everything: the group waits for this call. Commits are still accepted in it."""

    def spare(self) -> None:
        """The group has no partition for this member, and none is held any more."""

    def cut(self, partition: TP, cut: Cut) -> None:
        """Records were removed before they were read; what comes next comes from behind them."""


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer; its loop keeps heartbeats going while the app's loop is busy."""

    consumer: BatchConsumer
    _places: ReadPlaces | None = None

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        tolerate()
        watch()
        conf = self.app.conf
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            # Faust falls back to round robin for an app without tables, which splits co-partitioned topics. Its own
            # assignor gives partition p of all equally partitioned topics to one member, and is sticky.
            partition_assignment_strategy=[self.app.assignor],
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            fetch_min_bytes=FETCH_MIN_BYTES,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def on_thread_stop(self) -> None:
        coordinator = self._consumer._coordinator if self._consumer is not None else None
        stays = self.app.conf.consumer_group_instance_id is not None
        if coordinator is not None and coordinator.generation == 0 and not stays:
            # aiokafka leaves from generation 1 on, which is Kafka's first. Tansu's first is 0, and it would keep the
            # partitions for a whole session timeout.
            with contextlib.suppress(KafkaError):
                await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))
        await super().on_thread_stop()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.consumer.announced = (self.token(), generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    def token(self) -> Any:
        """The current assignment: aiokafka's object, which holds the positions; None before the first one."""
        subscription = self._consumer._subscription.subscription if self._consumer is not None else None
        return subscription.assignment if subscription is not None else None

    async def fetch(self, token: object, timeout_s: float, order: Sequence[TP]) -> None:
        """Put records of the assignment ``token`` into ``consumer.fetched``, as long as it is the assignment.

        Args:
            order: whose records come first; where it is empty, all that are at hand come.
        """
        await self.call_thread(self._fetch, token, timeout_s, order)

    async def _fetch(self, token: object, timeout_s: float, order: Sequence[TP]) -> None:
        consumer = self._ensure_consumer()
        if consumer._subscription.reassignment_in_progress or self.token() is not token:
            await asyncio.sleep(0.01)
            return
        places = self._placed(token)
        records = await self._at_hand(consumer, order)
        if not records:
            most = RECORDS_AHEAD if order else None
            records = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=most)
        if self.token() is token:
            places.came(records)
            self.consumer.cuts += places.cuts()
            self.consumer.fetched = token, {TP(*partition): batch for partition, batch in records.items()}
            return
        # ``getmany`` waits out a rebalance and then answers from the new assignment, whose partitions are not restored
        # yet. Put them back: the positions have already moved past them.
        for partition, batch in records.items():
            consumer.seek(partition, batch[0].offset)

    async def _at_hand(self, consumer: aiokafka.AIOKafkaConsumer, order: Sequence[TP]) -> dict[Any, list[Any]]:
        """Up to :data:`RECORDS_AHEAD` records that were fetched already; never waits, so all are of one assignment."""
        at_hand, room = consumer._fetcher._records, RECORDS_AHEAD
        records: dict[Any, list[Any]] = {}
        for partition in order:
            if room and partition in at_hand:
                place = driver.ensure_aiokafka_TP(partition)
                found = await consumer.getmany(place, timeout_ms=0, max_records=room)
                records |= found
                room -= sum(map(len, found.values()))
        return records

    async def seek_within(self, token: object, offsets: Mapping[TP, int]) -> None:
        """Start reading at ``offsets``, unless the assignment changed."""
        await self.call_thread(self._seek_within, token, offsets)

    async def _seek_within(self, token: object, offsets: Mapping[TP, int]) -> None:
        if self.token() is token:
            for partition, offset in offsets.items():
                place = driver.ensure_aiokafka_TP(partition)
                self._ensure_consumer().seek(place, offset)
                self._placed(token).begins(place, offset)

    def _placed(self, token: Any) -> ReadPlaces:
        if self._places is None or self._places.assignment is not token:
            self._places = ReadPlaces(token)
        return self._places

    async def pause_within(self, partitions: Collection[TP]) -> None:
        """Fetch no more of those among these that are held."""
        await self.call_thread(self._pause_within, partitions)

    async def _pause_within(self, partitions: Collection[TP]) -> None:
        consumer = self._ensure_consumer()
        held = ensure_TPset(consumer.assignment())
        consumer.pause(*(driver.ensure_aiokafka_TP(partition) for partition in partitions if partition in held))

    async def keepalive(self) -> None:
        """Count as having polled, so that a pause between fetches does not cost the membership."""
        await self.call_thread(self._keepalive_poll)

    async def _keepalive_poll(self) -> None:
        with self._ensure_consumer()._subscription.fetch_context():
            pass

    async def commit_within(self, generation: int, offsets: Mapping[TP, int]) -> bool:
        """Commit ``offsets`` if this member still is in ``generation`` of the group and holds the partitions."""
        return cast(bool, await self.call_thread(self._commit_within, generation, offsets))

    async def _commit_within(self, generation: int, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        # A member that was expelled has generation -1, and Kafka accepts such a commit when the group is empty.
        if generation < 0 or consumer._coordinator.generation != generation:
            return False
        held = ensure_TPset(consumer.assignment())
        places = self._placed(self.token())
        wanted = {
            driver.ensure_aiokafka_TP(partition): offset for partition, offset in offsets.items() if partition in held
        }
        for place, offset in wanted.items():
            places.accounted(place, offset)
        return await self._commit_beyond(places, wanted) and len(wanted) == len(offsets)

    async def commit_passed(self, generation: int) -> None:
        """Commit past what is no record (aborted ones, markers of transactions) where all records are accounted for."""
        await self.call_thread(self._commit_passed, generation)

    async def _commit_passed(self, generation: int) -> None:
        coordinator = self._ensure_consumer()._coordinator
        if 0 <= generation == coordinator.generation and (token := self.token()) is not None:
            places = self._placed(token)
            await self._commit_beyond(places, places.passed())

    async def _commit_beyond(self, places: ReadPlaces, offsets: Mapping[Any, int]) -> bool:
        wanted = {place: places.beyond(place, offset) for place, offset in offsets.items()}
        if not wanted:
            return True
        try:
            committed = {place: OffsetAndMetadata(offset, "") for place, offset in wanted.items()}
            await asyncio.wait_for(self._ensure_consumer().commit(committed), COMMIT_TIMEOUT_S)
        except TimeoutError:
            self.log.warning("A commit had no answer for %s s", COMMIT_TIMEOUT_S)
            return False
        except (CommitFailedError, IllegalStateError):
            return False
        places.committed |= wanted
        return True


class BatchConsumer(driver.Consumer):
    """A Faust consumer that hands out whole partition batches, and tells ``app.assignment_handler`` of rebalances."""

    _thread: BatchConsumerThread
    #: The newest assignment and its group generation, written by the consumer thread before the app hears of it.
    announced: tuple[object, int] = (None, -1)
    #: The newest fetch and its token, written by the consumer thread as soon as the positions have moved past it; what
    #: is left of it was not handled yet.
    fetched: tuple[object, Records] = (None, {})
    cuts: deque[tuple[TP, Cut]]
    """What the consumer thread found removed before it was read, and the role was not told yet."""
    _reached_ms: Mapping[TP, int] = {}  # event time by partition, where the role reads by it
    _live: object = None  # the token that may be fetched: its partitions are restored
    _pending: set[TP] | None = None  # assigned, not restored yet
    _generation: int = -1
    _rebalances: int = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cuts = deque()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _handler(self) -> AssignmentHandler:
        return cast(AssignmentHandler, cast(Any, self.app).assignment_handler)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._rebalances += 1
        self._live = self._pending = None
        await self._handler.revoked()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._rebalances += 1
        self._generation = self.announced[1]
        await super().on_partitions_assigned(assigned, generation_id)
        # The heartbeat task starts only after this callback, so the restore must not happen in it.
        self._pending = set(assigned)

    async def commit_positions(self, offsets: Mapping[TP, int]) -> bool:
        """Commit next offsets to read.

        Returns:
            False where a rebalance, an expulsion or a broker that stayed away left any of them uncommitted. They will
            be read again, here or by another member.
        """
        # A thread that crashed answers no more.
        outcome = await self.wait(self._thread.commit_within(self._generation, offsets))
        return bool(outcome.result)

    async def pause_within(self, partitions: Collection[TP]) -> None:
        """Fetch no more of these until the next assignment."""
        await self._thread.pause_within(partitions)

    def is_caught_up(self, partition: TP) -> bool:
        """Whether the broker said within the last :data:`CURRENT_S` that nothing lies behind what was handled."""
        assignment = self._thread.token() if self._live is not None else None
        state = assignment.state_value(driver.ensure_aiokafka_TP(partition)) if assignment is not None else None
        return (
            state is not None
            and state.has_valid_position
            and state.highwater is not None
            and state.position >= state.highwater
            and time.time() - state.timestamp / 1000 < CURRENT_S
            and partition not in self.fetched[1]
        )

    def reached(self, partition: TP, event_ms: int) -> None:
        """Reading has come to this event time in a partition; from now on those furthest behind are read first."""
        self._reached_ms = {**self._reached_ms, partition: event_ms}

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Never: acks out of order commit past records in flight. Offsets move by :meth:`commit_positions` alone."""
        return False

    async def perform_seek(self) -> None:
        """Nothing: a new aiokafka assignment starts at the committed offsets; :meth:`next_batch` owns other seeks."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust's livelock detector looks for per-record stream events, which do not exist here."""

    async def next_batch(self) -> tuple[TP, list[LogRecord]]:
        """The next partition's records, in offset order; the same again until they are :meth:`handled`.

        Takes over what a rebalance assigned first: nothing is fetched before it is restored.

        Raises:
            StopAsyncIteration: the consumer stops.
        """
        while not self.should_stop:
            token, records = self.fetched
            if not self.flow_active:
                await self.wait(cast(Any, self.can_resume_flow), timeout=FETCH_TIMEOUT_S)
            elif self._pending is not None:
                await self._take_over(self._pending)
            elif self._live is None:
                await asyncio.sleep(0.02)
            elif token is self._live and records:
                return next(iter(records.items()))
            else:
                await self._fetch_once(self._live)
        raise StopAsyncIteration

    def handled(self, partition: TP) -> None:
        """The batch of ``partition`` that :meth:`next_batch` gave is done with, and the next one may follow."""
        self.fetched[1].pop(partition, None)

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        """Nothing but to report in: Faust's place to fetch, but here the agent does, through :meth:`next_batch`.

        A member without partitions waits to take over, a restore takes minutes, a slow role holds fetching up. aiokafka
        would leave the group and never come back.
        """
        while True:
            await cast(Any, fetcher).sleep(KEEPALIVE_S)
            if self.should_stop or fetcher.should_stop:
                return
            await self.wait(self._thread.keepalive())
            if self._live is not None and cast(Any, self.app).commits_positions:
                await self.wait(self._thread.commit_passed(self._generation))

    async def _take_over(self, partitions: set[TP]) -> None:
        rebalances, token = self._rebalances, self.announced[0]
        self._pending, self._reached_ms = None, {}
        if not partitions:
            self._handler.spare()
            return
        starts = await self._handler.assigned(partitions)
        if starts and rebalances == self._rebalances:
            await self._thread.seek_within(token, starts)
        if rebalances == self._rebalances:
            self._live = token

    async def _fetch_once(self, token: object) -> None:
        try:
            order = sorted(self._reached_ms, key=self._reached_ms.__getitem__)
            await self._thread.fetch(token, FETCH_TIMEOUT_S, order)
            while self.cuts:
                self._handler.cut(*self.cuts.popleft())
        except ConsumerStoppedError:
            if not self.app.should_stop:
                raise
            raise StopAsyncIteration from None


class BatchTransport(driver.Transport):
    """``aiokafka://`` with :class:`BatchConsumer`."""

    Consumer: ClassVar[type[BatchConsumer]] = BatchConsumer
