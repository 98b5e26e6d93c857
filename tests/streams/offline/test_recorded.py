"""What is learned from, of what a deployment recorded: read from lists in the place of a broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from support import model_worlds as worlds

from schemas import codec
from schemas.errors import ConfigError
from schemas.predictions import Erasure
from schemas.snapshot import OUTCOME_VERSION, SNAPSHOT_VERSION, Outcome
from streams.kafka.reader import TopicReader
from streams.offline.recorded import RecordedOutcomes, read_recorded

DAY_MS = worlds.DAY_MS
NOW_MS = worlds.START_MS + 100 * DAY_MS


class Line(NamedTuple):
    """A record as confluent-kafka would give it."""

    in_topic: str
    in_partition: int
    at: int
    body: bytes

    def topic(self) -> str:
        return self.in_topic

    def partition(self) -> int:
        return self.in_partition

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return self.body


class Lists:
    """A reader of lists: topic -> its partitions."""

    def __init__(self, **topics: Sequence[Sequence[bytes]]) -> None:
        self.topics = {"outcomes": [[]], "erasures": [[]], "catalog": [[]], **topics}

    def partitions(self, topic: str) -> int:
        return len(self.topics[topic])

    def ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {(topic, partition): len(self.topics[topic][partition]) for topic, partition in places}

    def range(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Line]:
        for offset, body in enumerate(self.topics[topic][partition][start:stop], start):
            yield Line(topic, partition, offset, body)

    ends_of, whole, up_to = TopicReader.ends_of, TopicReader.whole, TopicReader.up_to


def read(*partitions: Sequence[Outcome], erasures: Sequence[bytes] = ()) -> RecordedOutcomes:
    reader: Any = Lists(outcomes=[[codec.msgpack_encode(o) for o in part] for part in partitions], erasures=[erasures])
    return read_recorded(reader, "", lambda share, text: None)


def outcome(
    name: str, *, label: int, as_of_ms: int, resolved_ms: int, customer: int = 1, days_known: float = 90.0
) -> Any:
    made = worlds.snapshot(customer, kind="horizon", as_of_ms=as_of_ms)
    known = bytearray(made.features)
    at = worlds.features.INDEX["days_since_first"] * 4
    known[at : at + 4] = worlds.vector(days_since_first=days_known)[at : at + 4]
    return worlds.outcome(name, msgspec.structs.replace(made, features=bytes(known)), label, resolved_ms=resolved_ms)


def receipt(customer: int, erased_ms: int) -> bytes:
    said = Erasure(receipt_id="r", customer_id=str(customer), erased_ms=erased_ms, source=("profiles", 0, 1))
    return codec.json_encode(said)


def test_an_outcome_counts_when_its_own_partition_has_come_to_its_end() -> None:
    old_ms, young_ms = NOW_MS - 40 * DAY_MS, NOW_MS - 20 * DAY_MS
    ahead = [
        outcome("old, back", label=0, as_of_ms=old_ms, resolved_ms=old_ms + DAY_MS),
        outcome("old, away", label=1, as_of_ms=old_ms, resolved_ms=old_ms + 28 * DAY_MS, customer=2),
        outcome("young, back", label=0, as_of_ms=young_ms, resolved_ms=NOW_MS),
    ]
    behind = [outcome("old, back, behind", label=0, as_of_ms=old_ms, resolved_ms=old_ms + DAY_MS, customer=3)]
    found = read(ahead, behind, [])
    assert [o.question_id for o in found.outcomes] == ["old, back", "old, away"]
    assert len(found.early) == 2


@pytest.mark.parametrize("versions", [(OUTCOME_VERSION + 1, SNAPSHOT_VERSION), (OUTCOME_VERSION, SNAPSHOT_VERSION - 1)])
def test_the_version_of_an_outcome_does_not_matter_to_how_far_its_partition_has_come(versions: tuple[int, int]) -> None:
    as_of_ms = NOW_MS - 40 * DAY_MS
    foreign = outcome("foreign", label=1, as_of_ms=as_of_ms, resolved_ms=NOW_MS)
    snapshot = msgspec.structs.replace(foreign.snapshot, version=versions[1])
    foreign = msgspec.structs.replace(foreign, version=versions[0], snapshot=snapshot)
    found = read([outcome("back", label=0, as_of_ms=as_of_ms, resolved_ms=as_of_ms), foreign])
    assert [o.question_id for o in found.outcomes] == ["back"]
    assert found.foreign == 1


def test_an_outcome_of_other_fields_is_of_another_release() -> None:
    as_of_ms = NOW_MS - 40 * DAY_MS
    known = outcome("back", label=0, as_of_ms=as_of_ms, resolved_ms=NOW_MS)
    older = codec.msgpack_encode([1, "an-id", "churn", 1, as_of_ms, NOW_MS, [1, "1", "horizon", as_of_ms]])
    reader: Any = Lists(outcomes=[[older, codec.msgpack_encode(known), b"no record"]])
    found = read_recorded(reader, "", lambda share, text: None)
    assert [o.question_id for o in found.outcomes] == ["back"]
    assert found.foreign == 2


def test_one_question_of_two_heads_is_two_outcomes_and_a_repeated_one_is_none() -> None:
    as_of_ms = NOW_MS - 40 * DAY_MS
    churn = outcome("asked", label=0, as_of_ms=as_of_ms, resolved_ms=NOW_MS)
    redemption = msgspec.structs.replace(churn, head="redemption", labels={"redemption": 1})
    found = read([churn, redemption, churn, redemption, redemption])
    assert [(o.question_id, o.head, o.label) for o in found.outcomes] == [
        ("asked", "churn", 0),
        ("asked", "redemption", 1),
    ]
    assert found.repeated == 3


def test_what_was_known_of_a_customer_before_an_erasure_is_not_learned_from() -> None:
    erased_ms = NOW_MS - 50 * DAY_MS
    asked = {"at": 0, "before": -1, "after": 1, "later": 10 * DAY_MS}
    told = [
        outcome(name, label=0, as_of_ms=erased_ms + by_ms, resolved_ms=NOW_MS, days_known=0.0)
        for name, by_ms in asked.items()
    ]
    late = outcome("erasure came late", label=0, as_of_ms=erased_ms + 2 * DAY_MS, resolved_ms=NOW_MS, days_known=3.0)
    other = outcome("other", label=1, as_of_ms=erased_ms - 1, resolved_ms=NOW_MS, customer=2)
    receipts = [receipt(1, erased_ms), receipt(1, erased_ms - 9 * DAY_MS)]  # the newest counts, in any order
    for erasures in (receipts, receipts[::-1]):
        found = read([*told, late, other], erasures=erasures)
        assert [o.question_id for o in found.outcomes] == ["after", "later", "other"]
        assert (found.erased, found.early) == (3, [])


def test_a_receipt_that_cannot_be_read_is_not_passed_over() -> None:
    with pytest.raises(ConfigError, match=r"erasures\[0\] at offset 1 is no receipt"):
        read([], erasures=[receipt(1, NOW_MS), b"{"])
