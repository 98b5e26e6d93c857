"""Records in another partition than their key's: an opt-out there would reach nobody, and a receipt would lie."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS

from schemas import heartbeat
from schemas.deadletter import Refused
from schemas.events import CLICKSTREAM, PROFILES
from schemas.records import LogRecord
from schemas.topics import TOPICS
from schemas.words import Words
from streams.core.partition import IngestPartition
from streams.kafka.partitioning import partition_for
from streams.state.checkpoints import StoredRecords
from streams.state.memory import MemoryStore

PARTITIONS = 4
VIEW = json.dumps({"event": "app_open", "event_ts_ms": START_MS}).encode()


class Partition:
    """Partition 0 of several."""

    def __init__(self, misplaced: Literal["dead-letter", "accept"] = "dead-letter") -> None:
        self.offset = 0
        self.ingest = IngestPartition(
            0,
            msgspec.structs.replace(CONFIG, misplaced=misplaced),
            Words(),
            StoredRecords(MemoryStore()),
            None,
            cache_bytes=1 << 20,
            idle_ms=0,
            now_ms=0,
            home=lambda key: partition_for(key, PARTITIONS),
        )

    def take(
        self, key: bytes, value: bytes | None, source_index: int = CLICKSTREAM, headers: Any = ()
    ) -> list[Refused]:
        self.offset += 1
        refused: list[Refused] = self.ingest.take(
            source_index, [LogRecord(self.offset, key, value, headers, START_MS)], 0
        )
        return refused


def at_home(home: bool) -> bytes:
    keys = (b"c%d" % number for number in range(100))
    return next(key for key in keys if (partition_for(key, PARTITIONS) == 0) == home)


def test_a_record_in_the_wrong_partition_is_refused_with_the_remedy_and_counted() -> None:
    partition = Partition()
    (refused,) = partition.take(at_home(False), VIEW, headers=(("ce_source", b"/shop/app"),))
    said = dict(refused.headers)
    assert (refused.reason, said["dl_error"]) == ("wrong_partition", b"WrongPartition")
    assert b"partitioner=murmur2_random" in said["dl_message"]
    assert partition.ingest.counts["misplaced\x1fclickstream\x1f/shop/app"] == 1
    assert partition.take(at_home(True), VIEW) == []
    assert sum(count for name, count in partition.ingest.counts.items() if name.startswith("misplaced")) == 1


def test_there_is_no_receipt_for_an_erasure_in_the_wrong_partition() -> None:
    partition = Partition()
    (refused,) = partition.take(at_home(False), None, PROFILES)
    assert refused.reason == "wrong_partition"
    assert partition.ingest.checkpoint(0).erasures == []
    assert partition.take(at_home(True), None, PROFILES) == []
    (receipt,) = partition.ingest.checkpoint(0).erasures
    assert receipt.customer_id == at_home(True).decode()


def test_a_receipt_lists_what_stays_in_topics() -> None:
    partition = Partition()
    partition.take(at_home(True), None, PROFILES)
    (receipt,) = partition.ingest.checkpoint(0).erasures
    assert receipt.kept_days["clickstream"] == 30
    assert receipt.kept_days["outcomes"] == 400
    assert receipt.kept_days["session-snapshots"] == receipt.kept_days["graph-edges"] == 1
    assert receipt.kept_days["profiles"] == 30
    assert receipt.kept_days["dead-letter"] == 90
    assert "catalog" not in receipt.kept_days and "words" not in receipt.kept_days
    assert set(receipt.kept_days) <= set(TOPICS)


def test_accepted_records_are_counted_and_an_erasure_of_nobody_known_has_no_receipt() -> None:
    partition = Partition("accept")
    elsewhere = at_home(False)
    (refused,) = partition.take(elsewhere, None, PROFILES)
    assert refused.reason == "wrong_partition"
    assert partition.take(elsewhere, VIEW) == []
    assert partition.take(elsewhere, None, PROFILES) == []
    assert len(partition.ingest.checkpoint(0).erasures) == 1
    assert partition.ingest.counts["misplaced\x1fclickstream\x1funknown"] == 1
    assert partition.ingest.counts["misplaced\x1fprofiles\x1funknown"] == 2


def test_what_has_no_home_is_refused_as_that_or_taken_everywhere() -> None:
    partition = Partition()
    (refused,) = partition.take(b"\x00\x01", VIEW)
    assert refused.reason == "invalid_key"
    key, value, headers = heartbeat.encode(START_MS)
    assert partition.take(key, value, headers=headers) == []


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=8, alphabet=st.characters(categories=("L", "N"))), min_size=1, max_size=20)
)
def test_customers_are_kept_where_their_keys_belong(customers: list[str]) -> None:
    partition = Partition()
    for customer_id in customers:
        key = customer_id.encode()
        refused = partition.take(key, VIEW)
        if customer_id.lower() not in ("null", "none", "nil", "nan", "true", "false", "undefined"):
            assert (refused == []) == (partition_for(key, PARTITIONS) == 0)
            assert (partition.ingest.customer(customer_id) is not None) == (partition_for(key, PARTITIONS) == 0)


def test_many_sources_are_one_count() -> None:
    partition = Partition()
    for number in range(100):
        partition.take(at_home(False), VIEW, headers=(("ce_source", b"s%d" % number),))
    counts = {name: count for name, count in partition.ingest.counts.items() if name.startswith("misplaced")}
    assert len(counts) == 33 and sum(counts.values()) == 100
