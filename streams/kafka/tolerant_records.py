"""Records of a fetch, whatever stands in them.

aiokafka decodes header names as strict UTF-8 while it unpacks a fetch. Kafka itself takes any bytes there, so that one
record of a careless producer would end every worker that reads its partition. Here such a name is read with escapes in
place of what is no text; the record goes its way like any other.

Records become plain tuples: aiokafka's class of eleven fields takes more time to make than all the rest of unpacking.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from schemas.records import LogRecord

_LENGTH_AT: Final = 8  # behind the base offset, in every version of the format
_BODY_AT: Final = _LENGTH_AT + 4


class _Tolerant(bytearray):
    """Bytes whose decoding never fails."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Tolerant(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, "backslashreplace")


class _TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka says nothing of types
    """A batch read in Python, which is slow: only where the compiled reader gave up."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Tolerant(self._buffer)


class _Batch:
    """One batch: the compiled reader's, and the tolerant one from the record on that the former cannot read."""

    def __init__(self, compiled: Any, raw: bytes) -> None:
        self._compiled = compiled
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def __next__(self) -> Any:
        """The record of a control batch, which aiokafka asks for by itself; no header names stand in one."""
        return next(self._compiled)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._compiled:
                yield record
                read += 1
        except UnicodeDecodeError:
            yield from islice(_TolerantBatch(self._raw), read, None)


class TolerantRecords:
    """Takes the place of aiokafka's ``MemoryRecords``: the batches in the bytes of one partition's fetch."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._batches = MemoryRecords(data)

    def size_in_bytes(self) -> int:
        return int(self._batches.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def next_batch(self) -> _Batch | None:
        batch = self._batches.next_batch()
        if batch is None:
            return None
        begin = self._at
        (length,) = struct.unpack_from(">i", self._data, begin + _LENGTH_AT)
        self._at = begin + _BODY_AT + length
        return _Batch(batch, self._data[begin : self._at])


class TupleRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka says nothing of types
    """Takes the place of aiokafka's ``PartitionRecords``: makes a :class:`schemas.records.LogRecord` of each record."""

    def _consumer_record(self, tp: Any, record: Any) -> LogRecord:
        return LogRecord(record.offset, record.key, record.value, tuple(record.headers), record.timestamp)


def tolerate() -> None:
    """Have aiokafka's fetcher unpack with these classes; it offers no other way in."""
    fetcher.MemoryRecords = TolerantRecords
    fetcher.PartitionRecords = TupleRecords
