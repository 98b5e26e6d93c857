"""Batches are read whatever the names of their headers, and equal to aiokafka's where those are text."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from streams.kafka.tolerant_records import TolerantRecords, TupleRecords

PLAIN, GZIP, SNAPPY, LZ4, ZSTD = range(5)


class _Bytes(str):
    """A name that is no text, as a client in C or Go may send it."""

    def encode(self, *_: Any) -> bytes:
        return b"\xffname\xed\xa0\x80"


def _batch(codec: int, *headers: list[tuple[str, bytes | None]]) -> bytes:
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, 0, 1 << 20)
    for offset, of_record in enumerate(headers):
        builder.append(offset, 1_700_000_000_000 + offset, b"key%d" % offset, b"value%d" % offset, of_record)
    return bytes(builder.build())


def _read(records: Any) -> list[tuple[int, int, bytes, bytes, tuple[tuple[str, bytes | None], ...]]]:
    found = []
    while records.has_next():
        found += [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records.next_batch()]
    return found


@pytest.mark.parametrize("codec", [PLAIN, GZIP, SNAPPY, LZ4, ZSTD])
def test_what_is_text_is_read_as_aiokafka_reads_it(codec):
    data = _batch(codec, [("ce_id", b"1")], [], [("été", None)]) + _batch(codec, [("a", b"")], [("b", b"2")])
    assert _read(TolerantRecords(data)) == _read(MemoryRecords(data))
    assert len(_read(TolerantRecords(data))) == 5


def test_tuples_say_what_aiokafkas_records_say():
    data = _batch(LZ4, [("ce_id", b"1")], [], [("a", None)])
    theirs, ours = (
        list(made(TopicPartition("t", 3), TolerantRecords(data), [], 0, None, None, True, READ_UNCOMMITTED))
        for made in (PartitionRecords, TupleRecords)
    )
    assert [tuple(record) for record in ours] == [
        (record.offset, record.key, record.value, record.headers, record.timestamp) for record in theirs
    ]
    assert len(ours) == 3


@pytest.mark.parametrize("codec", [PLAIN, GZIP, SNAPPY, LZ4, ZSTD])
def test_a_name_that_is_no_text_is_escaped_and_costs_no_record(codec):
    bad: list[tuple[str, bytes | None]] = [("ce_id", b"7"), (_Bytes("x"), b"\xff")]
    data = _batch(codec, [("a", b"1")], bad, [("c", b"3")]) + _batch(codec, bad) + _batch(codec, [("d", b"4")])
    with pytest.raises(UnicodeDecodeError):
        _read(MemoryRecords(data))
    found = _read(TolerantRecords(data))
    assert [headers for *_, headers in found] == [
        (("a", b"1"),),
        (("ce_id", b"7"), ("\\xffname\\xed\\xa0\\x80", b"\xff")),
        (("c", b"3"),),
        (("ce_id", b"7"), ("\\xffname\\xed\\xa0\\x80", b"\xff")),
        (("d", b"4"),),
    ]
    assert [(offset, key, value) for offset, _, key, value, _ in found[:3]] == [
        (offset, b"key%d" % offset, b"value%d" % offset) for offset in range(3)
    ]


def test_a_batch_cut_short_by_the_fetch_size_is_left_out():
    whole = _batch(PLAIN, [("a", b"1")])
    records = TolerantRecords(whole + whole[:-3])
    assert len(_read(records)) == 1
    assert records.size_in_bytes() == 2 * len(whole) - 3
