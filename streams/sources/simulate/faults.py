"""What producers do wrong: records twice, out of order, late, and bytes that are no event.

The good records stay what they were, so a consumer that keeps its promises ends in the state of the stream
without faults, apart from what came later than its lateness bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Final

import numpy as np

from schemas import errors
from schemas.events import SOURCES
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.names import OPT_OUTS
from streams.sources.datasets.record import EncodedRecord, SourceRecord, encoded
from streams.sources.simulate.sessions import uniforms

_LATE_BY_MS: Final = 2 * 3_600_000

Spoil = Callable[[EncodedRecord, dict[str, Any]], EncodedRecord]


def _with(record: EncodedRecord, value: bytes | None) -> EncodedRecord:
    return EncodedRecord(record.topic, record.key, value, record.event_ts_ms)


def _with_fields(**fields: object) -> Spoil:
    return lambda record, body: _with(record, json.dumps(body | fields).encode())


def _without(field: str) -> Spoil:
    return lambda record, body: _with(
        record, json.dumps({name: value for name, value in body.items() if name != field}).encode()
    )


def _replaced(value: bytes) -> Spoil:
    return lambda record, body: _with(record, value)


def _keyed(key: bytes | None) -> Spoil:
    return lambda record, body: EncodedRecord(record.topic, key, record.value, record.event_ts_ms)


def _scaled_time(factor: float) -> Spoil:
    return lambda record, body: _with(
        record, json.dumps(body | {"event_ts_ms": int(body["event_ts_ms"] * factor)}).encode()
    )


def _null(record: EncodedRecord, body: dict[str, Any]) -> EncodedRecord:
    return EncodedRecord(SOURCES[0], record.key, None, record.event_ts_ms)


def _unkeyed(record: EncodedRecord, body: dict[str, Any]) -> EncodedRecord:
    # Never on profiles: Kafka itself refuses a record without a key on a compacted topic, with its whole batch.
    return EncodedRecord(SOURCES[0], None, record.value, record.event_ts_ms)


#: Class of bad record -> the refusal it deserves, and how to make one of a good record.
FAULTS: Final[dict[str, tuple[type[errors.DeadLetter], Spoil]]] = {
    "not_json": (errors.Malformed, _replaced(b'{"event": "purchase", ')),
    "not_utf8": (errors.Malformed, _replaced(b'{"event_id": "\xff\xfe"}')),
    "empty": (errors.Malformed, _replaced(b"")),
    "not_an_object": (errors.InvalidField, _replaced(b"[1, 2]")),
    "wrong_type": (errors.InvalidField, _with_fields(event_ts_ms="yesterday")),
    "missing_field": (errors.InvalidField, _without("event_ts_ms")),
    "fraction": (errors.InvalidField, _with_fields(event_ts_ms=1_500_000_000_000.5)),
    "nan": (errors.Malformed, lambda record, body: _with(record, json.dumps(body | {"value": float("nan")}).encode())),
    "seconds": (errors.OutOfTime, _scaled_time(1e-3)),
    "microseconds": (errors.OutOfTime, _scaled_time(1e3)),
    "next_century": (errors.OutOfTime, _with_fields(event_ts_ms=4_102_444_799_000)),
    "oversize": (errors.Oversized, _with_fields(padding="x" * (MAX_PAYLOAD_BYTES + 1))),
    "key_mismatch": (errors.KeyMismatch, _with_fields(customer_id="somebody-else")),
    "null_key": (errors.NullKey, _unkeyed),
    "empty_key": (errors.InvalidKey, _keyed(b"")),
    "key_not_utf8": (errors.InvalidKey, _keyed(b"\xff\xfe")),
    "null_value": (errors.UnexpectedTombstone, _null),
}


def faults(
    records: Iterable[SourceRecord],
    seed: int,
    *,
    duplicate: float = 0.05,
    reorder_ms: int = 60_000,
    late: float = 0.0,
    late_by_ms: int = _LATE_BY_MS,
    malformed: float = 0.0,
) -> Iterator[EncodedRecord]:
    """The records as a faulty world delivers them: every good one at least once, bad ones between them.

    Args:
        records: ordered by event time.
        seed: of every random number.
        duplicate: share of the records that come a second time, like all others within ``reorder_ms``.
        reorder_ms: event time by which a record may be overtaken, and no more.
        late: share of the records that come later than that by ``late_by_ms`` and more.
        malformed: bad records put in, as a share of the good ones; the classes of :data:`FAULTS` in turn.
    """
    uniform = uniforms(np.random.Generator(np.random.PCG64(seed)))
    classes = list(FAULTS)
    spoiled = 0
    waiting: list[tuple[int, int, EncodedRecord]] = []
    number = 0
    for record in encoded(records):
        now_ms = record.event_ts_ms
        # What arrives at this very instant may still be overtaken: it is released with the next one.
        while waiting and waiting[0][0] < now_ms:
            yield heappop(waiting)[2]
        base_ms = now_ms + (reorder_ms + late_by_ms if next(uniform) < late else 0)
        arrival_ms = base_ms + int(next(uniform) * reorder_ms)
        heappush(waiting, (arrival_ms, number, record))
        number += 1
        if next(uniform) < duplicate:
            heappush(waiting, (base_ms + int(next(uniform) * reorder_ms), number, record))
            number += 1
        if record.value is not None and next(uniform) < malformed:
            body = json.loads(record.value)
            if body.get("event") in OPT_OUTS:
                continue  # taken whatever is wrong with it
            bad = FAULTS[classes[spoiled % len(classes)]][1](record, body)
            spoiled += 1
            heappush(waiting, (arrival_ms, number, bad))
            number += 1
    while waiting:
        yield heappop(waiting)[2]
