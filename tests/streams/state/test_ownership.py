"""A worker that lost its partition and does not know it cannot change what the next owner wrote."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import CONFIG
from support.owners import START, batch, fill, state, worker

from schemas.errors import TopicMismatch
from streams.agents.ingest import IngestRole
from streams.kafka.positions import continuation
from streams.kafka.reader import TopicReader
from streams.state import keys
from streams.state.checkpoints import read_meta
from streams.state.memory import MemoryStore
from streams.state.ownership import Accepting, ChangelogRecord, Ownership, OwnershipLost, claim
from streams.state.restore import restore
from streams.telemetry.metrics import Metrics

NAMES = [b"ca", b"cb", b"cc"]
RECORDS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("checkpoint"), RECORDS),
        st.tuples(st.just("killed"), RECORDS),  # while it writes a checkpoint
        st.tuples(st.just("zombie"), RECORDS),  # of whoever was the owner before
        st.tuples(st.just("overwrite"), st.just(NAMES)),
        st.tuples(st.just("compact"), st.just(NAMES)),
    ),
    max_size=25,
)


class Owners:
    """A changelog and those who own it one after the other; ``expected`` is what finished checkpoints say."""

    def __init__(self) -> None:
        self.log: list[ChangelogRecord] = []
        self.expected: dict[bytes, bytes] = {}
        self._next, self._token, self._checkpoint, self._known = 0, 0, 0, Accepting()
        self._settled = 0
        self.take_over()

    def read(self) -> tuple[dict[bytes, bytes | None], Accepting]:
        """What somebody finds who has nothing but the log."""
        known = Accepting()
        pairs = known.accept(self.log)
        known.end()
        return dict(pairs), known

    def take_over(self) -> None:
        _, self._known = self.read()
        self._token, self._checkpoint = self._known.fencing_token + 1, 0
        self._write(*claim(self._known.complete_to(self._next)))

    def overwrite(self) -> None:
        """What an owner does before its first checkpoint."""
        for key in sorted(self._known.stale, key=lambda key: (key == keys.META, key)):
            self._write(key, self.expected.get(key))
        self._known = Accepting()

    def checkpoint(self, names: list[bytes], *, whole: bool) -> None:
        self.overwrite()
        written = dict.fromkeys(names, b"%d" % self._next)
        for key, value in written.items():
            self._write(key, value)
        if whole:
            self._write(keys.META, b"%d" % self._next)
            self.expected |= written | {keys.META: b"%d" % (self._next - 1)}
            self._checkpoint += 1
            self._settled = self._next

    def zombie(self, names: list[bytes]) -> None:
        for name in names:
            self._write(name, b"bad", fencing_token=self._token - 1)
        self._known = self.read()[1]  # the owner's next records do not get the offsets that they must get

    def compact(self) -> None:
        """As Kafka does, but for what came since the last checkpoint: there is time to overwrite it."""
        cleaned = [record for record in self.log if record.offset < self._settled]
        newest = {record.key: record for record in cleaned}
        self.log = [record for record in cleaned if newest[record.key] is record] + self.log[len(cleaned) :]

    def _write(self, key: bytes, value: bytes | None, fencing_token: int | None = None) -> None:
        token = self._token if fencing_token is None else fencing_token
        self.log.append(ChangelogRecord(self._next, key, value, token, self._checkpoint))
        self._next += 1


def played(steps: list[tuple[str, list[bytes]]]) -> Owners:
    owners = Owners()
    for step, names in steps:
        if step == "checkpoint":
            owners.checkpoint(names, whole=True)
        elif step == "killed":
            owners.checkpoint(names, whole=False)
            owners.take_over()
        elif step == "zombie":
            owners.zombie(names)
        elif step == "overwrite":
            owners.overwrite()
        else:
            owners.compact()
    return owners


@given(steps=STEPS)
def test_what_counts_is_every_finished_checkpoint_and_nothing_else(steps: list[tuple[str, list[bytes]]]) -> None:
    owners = played(steps)
    found, known = owners.read()
    assert {key: value for key, value in found.items() if value is not None} == owners.expected
    newest = {record.key: record.value for record in owners.log if record.key != keys.CLAIM}
    bad = {key for key, value in newest.items() if value != owners.expected.get(key)}
    assert bad <= known.stale, "whoever opens it knows what to overwrite"


@given(steps=STEPS, cut=st.integers(0, 60))
def test_reading_in_two_parts_means_the_same(steps: list[tuple[str, list[bytes]]], cut: int) -> None:
    log = played(steps).log
    whole, parts = Accepting(), Accepting()
    pairs = whole.accept(log)
    assert parts.accept(log[:cut]) + parts.accept(log[cut:]) == pairs
    assert (parts.fencing_token, parts.stale, parts.open) == (whole.fencing_token, whole.stale, whole.open)


def test_an_owner_knows_the_offset_its_next_record_must_get() -> None:
    owner = Ownership(fencing_token=2, next_offset=10)
    assert owner.reached(12, sent=3) is None
    assert owner.reached(15, sent=2) == (13, 16)
    assert owner.reached(16, sent=1) is None
    assert owner.zombie_writes([ChangelogRecord(14, b"ca", b"", 1, 0), ChangelogRecord(15, b"cb", b"", 2, 0)]) == {
        b"ca"
    }
    with pytest.raises(OwnershipLost):
        owner.zombie_writes([ChangelogRecord(14, keys.CLAIM, b"0", 3, 0)])


def test_a_new_owner_that_was_expelled_before_its_first_checkpoint_tells_nothing(broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=1)
    fill(broker.bootstrap, prefix, 10)

    async def story() -> None:
        now_ms = 0
        role, group, outbox = worker(broker.bootstrap, prefix, {}, monotonic_ms=lambda: now_ms)
        await role.on_assigned({0})
        await role.process(batch(0, 10))
        # Paused past the session; another one has the partition by now, and may have gone on.
        group.expelled, now_ms = True, 60_000
        await role._flush(role._begin([0]))
        assert not role.held
        # The rebalance that was missed comes, and brings nothing: that is an answer, too.
        await role.on_revoked(set())
        now_ms += 3_600_000
        await role.idle()
        outbox.close(5)

    asyncio.run(story())
    with TopicReader({"bootstrap.servers": broker.bootstrap}) as reader:
        assert reader.ends([(f"{prefix}session-snapshots", 0)]) == {(f"{prefix}session-snapshots", 0): 0}


@pytest.mark.parametrize("how", ["revoked", "probed", "claimed"])
def test_every_record_is_counted_once_by_whoever_made_it_durable(how: str, broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=1)
    fill(broker.bootstrap, prefix, 30)

    async def story() -> None:
        now_ms = 0
        old, group, old_outbox = worker(broker.bootstrap, prefix, {}, monotonic_ms=lambda: now_ms)
        new, _, new_outbox = worker(broker.bootstrap, prefix, {})
        await old.on_assigned({0})
        await old.process(batch(0, 10))
        first = old._begin([0])
        await old.process(batch(10, 20))  # while the checkpoint is being written
        await old._flush(first)
        assert applied(old) == 10, "what came after the checkpoint is not durable yet"
        # The partition goes to another worker before the next checkpoint is written.
        if how != "claimed":
            group.expelled, now_ms = True, now_ms + 60_000
        else:
            await new.on_assigned({0})
        if how != "revoked":
            await old._flush(old._begin([0]))
            assert not old.held
        await old.on_revoked({0})
        if how != "claimed":
            await new.on_assigned({0})
        assert new.held[0].core.next_offsets["clickstream"] == 10
        await new.process(batch(10, 30))
        await new.on_revoked({0})
        assert (applied(old), applied(new)) == (10, 20)
        # And back again: counting goes on where it was.
        group.expelled = False
        await old.on_assigned({0})
        await old.process(batch(30, 35))
        await old.on_revoked({0})
        assert applied(old) == 15
        old_outbox.close(5)
        new_outbox.close(5)

    asyncio.run(story())


def applied(role: IngestRole) -> float:
    return role._metrics.value(Metrics.events_total, role="ingest", outcome="applied")


def test_a_worker_that_was_away_takes_no_topic_for_silent(broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=1)
    fill(broker.bootstrap, prefix, 20)

    async def story() -> None:
        now_ms = 0
        role, group, outbox = worker(broker.bootstrap, prefix, {}, idle_ms=30_000, monotonic_ms=lambda: now_ms)
        group.read_to_end = False
        await role.on_assigned({0})
        now_ms = 600_000  # other partitions took their time to be restored
        await role.process(batch(0, 10))
        await role._flush(role._begin([0]))
        assert role.held[0].core.watermark.value_ms == 0
        group.read_to_end = True
        now_ms += 29_999
        await role.process(batch(10, 20))
        await role._flush(role._begin([0]))
        assert role.held[0].core.watermark.value_ms == 0
        now_ms += 30_000  # now the other topics are silent: all there is was read, and nothing came
        await role._flush(role._begin([0]))
        assert role.held[0].core.watermark.value_ms >= START + 19 - CONFIG.lateness_ms
        await role.on_revoked({0})
        outbox.close(5)

    asyncio.run(story())


@pytest.mark.parametrize("records", [10, 6])
def test_a_log_that_goes_back_is_looked_at(records: int, broker: Any, make_topics: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(continuation, "__kwdefaults__", {"patience_s": 0.5})
    prefix = make_topics(partitions=1)
    fill(broker.bootstrap, prefix, records)

    async def story() -> None:
        role, _, outbox = worker(broker.bootstrap, prefix, {})
        await role.on_assigned({0})
        await role.process(batch(0, 10))
        if records == 10:  # read again from its beginning, and whole
            await role.process(batch(0, 5))
        else:  # made anew, or cut
            with pytest.raises(TopicMismatch, match="ends at 6, and the state has taken in what came before 10"):
                await role.process(batch(0, 5))
        await role.on_revoked({0})
        outbox.close(5)

    asyncio.run(story())


def test_a_paused_owner_neither_wins_nor_harms(broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=1)
    fill(broker.bootstrap, prefix, 30)

    async def story() -> None:
        old_disk: dict[int, MemoryStore] = {}
        new_disk: dict[int, MemoryStore] = {}
        old, old_group, old_outbox = worker(broker.bootstrap, prefix, old_disk)
        new, _, new_outbox = worker(broker.bootstrap, prefix, new_disk)
        await old.on_assigned({0})
        await old.process(batch(0, 10))
        await old._flush(old._begin([0]))
        # The old owner applies more, is paused before it can write, and loses the partition.
        await old.process(batch(10, 12))
        starts = await new.on_assigned({0})
        assert starts["clickstream", 0] == 10
        await new.process(batch(10, 20))
        await new._flush(new._begin([0]))
        expected = state(new_disk[0])
        # It wakes up and writes what it had: older records, newest in the log.
        late = old._begin([0])
        await old._flush(late)
        assert 0 not in old.held, "it has seen the other's claim"
        # The new owner notices at its next checkpoint, and overwrites zombie records.
        await new.process(batch(20, 21))
        await new._flush(new._begin([0]))
        expected = state(new_disk[0])
        fresh = MemoryStore()
        what = restore(fresh, {"bootstrap.servers": broker.bootstrap}, f"{prefix}ingest-changelog", 0, new.due_ms)
        assert state(fresh) == expected
        assert not what.stale, "the good records are behind the bad ones"
        assert read_meta(fresh).fencing_token == 2
        # Even an expelled member that does notice writes nothing.
        old_group.expelled = True
        await old.on_revoked({0})
        old_outbox.close(5)
        new_outbox.close(5)

    asyncio.run(story())
