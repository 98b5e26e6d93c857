"""The order in which a checkpoint is made durable, and what is left where it fails between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.logs import CONFIG, START_MS, Sent, log_of

from schemas.errors import DeliveryFailed
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES
from schemas.records import OutputRecord
from schemas.words import Words
from streams.agents.ingest import outputs_of, revocations_of
from streams.core.durable import IngestCheckpoint
from streams.core.partition import IngestPartition
from streams.runtime.clocks import Clocks
from streams.state import keys
from streams.state.checkpoints import StoredRecords
from streams.state.memory import MemoryStore
from streams.stateful.checkpoint_writer import CheckpointWriter
from streams.stateful.held import Held

DECISIONS = "predictions.next-best-action"
CUSTOMER = "c1"


class Path:
    """What a checkpoint passes on its way, in order. A barrier fails where it is told to."""

    def __init__(self, failing: int | None = None) -> None:
        self.steps: list[str] = []
        self._failing = failing
        self._barriers = 0

    # The outbox.

    def send_all(self, records: Iterable[OutputRecord]) -> None:
        self.steps += [record.topic for record in records]

    def mark(self) -> int:
        return 0

    async def delivered(self, _mark: int, _timeout_s: float) -> None:
        self._barriers += 1
        if self._barriers - 1 == self._failing:
            raise DeliveryFailed("no broker")
        self.steps.append("delivered")

    # The partition's log.

    owner = SimpleNamespace(next_offset=7, fencing_token=1)
    where = "ingest-changelog-0"

    def send(self, records: Iterable[tuple[bytes, bytes | None]]) -> int:
        found = ["meta" if key == keys.META else "changelog" for key, _ in records]
        self.steps += found
        return len(found)

    async def zombie_writes(self, _sent: int) -> set[bytes]:
        return set()

    # The group.

    async def commit(self, _offsets: object) -> bool:
        self.steps.append("committed")
        return True


def withdrawn() -> tuple[IngestPartition, IngestCheckpoint, Words, MemoryStore]:
    """A customer who bought, and took consent back in the same checkpoint."""
    words, store = Words(), MemoryStore()
    core = IngestPartition(0, CONFIG, words, StoredRecords(store), None, cache_bytes=1 << 20, idle_ms=0, now_ms=0)
    consent = {"email": {"marketing": True}}
    events = [
        Sent(PROFILES, CUSTOMER, START_MS, {"event_ts_ms": START_MS, "event_id": "p", "consent": consent}),
        Sent(CLICKSTREAM, CUSTOMER, START_MS + 1, {"event": "purchase", "event_ts_ms": START_MS + 1, "item_id": "a"}),
        Sent(CAMPAIGN_SENDS, CUSTOMER, START_MS + 2, {"event": "unsubscribe", "event_ts_ms": START_MS + 2}),
    ]
    log = log_of(events)
    for source_index in (PROFILES, CLICKSTREAM, CAMPAIGN_SENDS):
        core.take(source_index, log[source_index], 0)
    done = core.checkpoint(0)
    assert done.revocations and done.snapshots
    return core, done, words, store


def written(path: Path) -> MemoryStore:
    core, done, words, store = withdrawn()
    outbox: Any = path
    held: dict[int, Any] = {0: Held(store, core, outbox)}
    writer: CheckpointWriter[IngestCheckpoint] = CheckpointWriter(
        "ingest",
        held,
        outbox,
        outbox,
        Clocks(lambda: 0, lambda: 0),
        outputs=lambda checkpoint: outputs_of(checkpoint, words, partitions=1),
        first=revocations_of,
        lost=held.pop,
    )
    writer.opened(0, {})
    asyncio.run(writer.write({0: done}))
    return store


def barriers(steps: list[str]) -> Iterator[set[str]]:
    """What lies before each barrier, and behind the last one."""
    since: set[str] = set()
    for step in steps:
        if step == "delivered":
            yield since
            since = set()
        else:
            since.add(step)
    yield since


def test_a_revocation_is_there_before_anything_that_is_decided_on() -> None:
    path = Path()
    store = written(path)
    first, outputs, meta, last = barriers(path.steps)
    assert first == {DECISIONS}
    assert {"session-snapshots", "changelog"} <= outputs and DECISIONS not in outputs and "meta" not in outputs
    assert meta == {"meta"}
    assert last == {"committed"}
    assert store.get(keys.record(CUSTOMER)) is not None


@pytest.mark.parametrize("failing", range(3))
def test_where_it_fails_nothing_of_a_later_step_was_done(failing: int) -> None:
    whole = Path()
    written(whole)
    path = Path(failing)
    with pytest.raises(DeliveryFailed):
        written(path)
    assert list(barriers(path.steps)) == list(barriers(whole.steps))[: failing + 1]
    assert "committed" not in path.steps
