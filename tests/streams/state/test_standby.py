"""A standby's store is the owner's, a moment later; taking over from it reads only what came since."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.owners import MemoryStores, batch, fill, state, worker

from streams.core.customer import due_of
from streams.state import keys
from streams.state.changelog import Changelog
from streams.state.checkpoints import read_meta
from streams.state.contract import KeyValue, WriteBatch
from streams.state.memory import MemoryStore
from streams.state.ownership import Accepting, ChangelogRecord
from streams.state.restore import Applier
from streams.state.standby import Standby
from streams.telemetry.metrics import Metrics

STEPS = st.tuples(
    st.sampled_from([b"ca", b"cb", keys.META, keys.CLAIM]), st.integers(0, 2), st.integers(0, 2), st.integers(0, 30)
)


@given(log=st.lists(STEPS, max_size=30), cuts=st.sets(st.integers(1, 30)), crashes=st.booleans())
def test_stretches_and_crashes_between_them_mean_the_same(
    log: list[tuple[bytes, int, int, int]], cuts: set[int], crashes: bool
) -> None:
    records = [
        ChangelogRecord(offset, key, b"%d" % (min(number, offset) if key == keys.CLAIM else offset), token, checkpoint)
        for offset, (key, token, checkpoint, number) in enumerate(log)
    ]
    whole = Accepting()
    pairs = whole.accept(records)
    store = MemoryStore()
    applier = Applier(store, 0, lambda record: -1)
    bounds = sorted({0, len(records)} | {cut for cut in cuts if cut < len(records)})
    for end in bounds[1:]:
        if crashes:
            applier = Applier(store, max(0, read_meta(store).changelog_offset), lambda record: -1)
        applier.apply(records[applier.position : end], end, 0)
        if not crashes:
            assert applier.position == end
    assert dict(store.scan(b"c", b"d")) == {key: value for key, value in dict(pairs).items() if key != keys.META}
    assert read_meta(store).partition == dict(pairs).get(keys.META)
    assert applier.stale == whole.stale, "whoever opens the store knows what to overwrite"
    assert applier.fencing_token == whole.fencing_token
    if records and not whole.stale:
        begun = whole.open[0].offset if whole.open else len(records)
        assert read_meta(store).changelog_offset == begun, "half a checkpoint is read again"


class Copies:
    """Stores of a standby by partition, and what it said of them."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.stores: dict[int, MemoryStore] = {}
        self.local = MemoryStores(self.stores)
        self.behind: dict[int, int | None] = {}
        client = {"bootstrap.servers": bootstrap}
        changelog = Changelog(client, prefix, "ingest-changelog", lambda record: due_of(record).due_ms)
        self.standby = Standby(changelog, self.local, wall_ms=lambda: 0, behind=self.behind.__setitem__)

    def await_equal(self, partition: int, expected: MemoryStore) -> None:
        await_true(
            lambda: (
                partition in self.stores
                and state(self.stores[partition]) == state(expected)
                and read_meta(self.stores[partition]).partition == read_meta(expected).partition
            )
        )


def await_true(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_it_follows_the_owner_and_hands_over(broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=2)
    fill(broker.bootstrap, prefix, 3_000)

    async def story() -> None:
        disk: dict[int, MemoryStore] = {}
        old, _, old_outbox = worker(broker.bootstrap, prefix, disk)
        copies = Copies(broker.bootstrap, prefix)
        copies.standby.follow({0, 1})
        copies.standby.start()
        await old.on_assigned({0})
        for first in range(0, 3_000, 1_000):
            await old.process(batch(first, first + 1_000))
            await old._flush(old._begin([0]))
            await asyncio.to_thread(copies.await_equal, 0, disk[0])
        assert dict(disk[0].scan(b"", b"\xff")).keys() == dict(copies.stores[0].scan(b"", b"\xff")).keys(), "timers too"
        await asyncio.to_thread(await_true, lambda: copies.behind.get(0) == 0)
        # The owner is gone without a word; whoever takes over goes on from the copy.
        copies.standby.release(0)
        assert copies.behind[0] is None
        new, _, new_outbox = worker(broker.bootstrap, prefix, copies.stores)
        starts = await new.on_assigned({0})
        assert starts["clickstream", 0] == 3_000
        assert new._metrics.value(Metrics.restored_records_total, role="ingest") == 0, "nothing was left to restore"
        assert not copies.local.quarantined
        copies.standby.stop()
        assert copies.standby.failure is None
        old_outbox.close(5)
        new_outbox.close(5)

    asyncio.run(story())


def test_a_copy_that_cannot_be_continued_is_rebuilt(broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=1)

    async def story() -> None:
        disk: dict[int, MemoryStore] = {}
        owner, _, outbox = worker(broker.bootstrap, prefix, disk)
        await owner.on_assigned({0})
        await owner.process(batch(0, 100))
        await owner._flush(owner._begin([0]))
        copies = Copies(broker.bootstrap, prefix)
        damaged = WriteBatch()
        damaged.put(keys.META, b"\xc1 no record")
        copies.local.open(0).write(damaged)
        copies.standby.follow({0})
        copies.standby.start()
        await asyncio.to_thread(copies.await_equal, 0, disk[0])
        assert copies.local.quarantined == [0]
        copies.standby.stop()
        outbox.close(5)

    asyncio.run(story())


def test_what_breaks_the_thread_is_reported(broker: Any, make_topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = make_topics(partitions=1)
    asked = threading.Event()

    def no_disk(partition: int) -> KeyValue:
        asked.set()
        raise OSError("no disk")

    copies = Copies(broker.bootstrap, prefix)
    monkeypatch.setattr(copies.local, "open", no_disk)
    copies.standby.follow({0})
    copies.standby.start()
    assert asked.wait(30)
    await_true(lambda: copies.standby.failure is not None)
    assert "no disk" in str(copies.standby.failure)
    copies.standby.stop()
