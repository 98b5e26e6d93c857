"""What holds of the store after every checkpoint, whatever came, was erased, swept, or died on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import logs
from support.examples import examples
from support.logs import (
    CONFIG,
    START_MS,
    LogRecord,
    Sent,
    Worker,
    arrivals,
    log_of,
    sent_events,
    undisturbed,
    with_late_ones,
    without_erasures,
)

from schemas.codec import json_encode
from schemas.events import CLICKSTREAM, SOURCES
from schemas.sweep import Sweep
from streams.core.config import DAY_MS, CoreConfig
from streams.core.customer import read_record, read_snapshot, snapshot_piece
from streams.core.labels import CARRIERS
from streams.state import keys

CONFIGS = [
    CONFIG,
    msgspec.structs.replace(
        CONFIG, fresh_edges=1, sample_share=1.0, timeline_words=8, edges_per_type=3, pending_limit=2
    ),
    msgspec.structs.replace(CONFIG, sample_share=0.0, watermark_keys=2),
]
CUSTOMERS = ("c1", "c2", "c3")


@pytest.fixture(autouse=True, scope="module")
def more_pieces() -> Iterator[None]:
    with logs.more_pieces():
        yield


def check_store(worker: Worker) -> None:
    """Pieces and timers are those of the records, no more and no fewer; reading and writing again changes nothing."""
    pairs = dict(worker.store.scan(b"", b"\xff"))
    records = {key[1:].decode(): value for key, value in pairs.items() if key.startswith(keys.RECORD)}
    pieces: dict[str, set[bytes]] = {}
    for key in pairs:
        if key.startswith(keys.PIECE):
            name, piece = keys.parse_piece(key)
            pieces.setdefault(name, set()).add(piece)
    assert pieces.keys() <= records.keys()
    for name, record in records.items():
        known = worker.ingest._decoded([(name, record)])[name][0]
        assert set(known._stored) == pieces.get(name, set())
        for label in known.settled.pending:
            if label.head not in CARRIERS:
                continue
            asked = read_snapshot(pairs[keys.piece(name, snapshot_piece(label.question_id))])
            assert (asked.question_id, asked.as_of_ms) == (label.question_id, label.as_of_ms)
        again = known.encode()
        assert (again.record, again.pieces) == (record, [])
    timers = {keys.parse_timer(key) for key in pairs if key.startswith(keys.TIMER)}
    assert timers == {(read.due_ms, name) for name, raw in records.items() if (read := read_record(raw)).due_ms >= 0}


def marked(events: list[Sent]) -> list[Sent]:
    """Events about one product with an item of their own, that can be looked for."""
    return [
        sent._replace(body=sent.body | {"item_id": f"MARK{number:04}"})
        if sent.source_index == CLICKSTREAM and sent.body is not None and "items" not in sent.body
        else sent
        for number, sent in enumerate(events)
    ]


def live(worker: Worker, log: list[list[LogRecord]], data: Any) -> None:
    """Take the log in, with checkpoints, restarts, sweeps, look-ups and deaths."""
    fates = st.sampled_from(["on", "checkpoint", "checkpoint", "restart", "sweep", "die", "look"])
    died = True
    while died:
        died, next_offsets = False, worker.ingest.next_offsets
        rest = [topic[next_offsets.get(name, 0) :] for topic, name in zip(log, SOURCES, strict=True)]
        for source_index, batch in arrivals(data.draw, rest):
            worker.take(source_index, batch)
            match data.draw(fates):
                case "sweep":
                    order = json_encode(Sweep(sweep_id="s"))
                    offset = worker.ingest._sweeps.next_offset
                    worker.ingest.take_sweeps([LogRecord(offset, b"s", order, (), START_MS)])
                case "checkpoint":
                    worker.ingest.sweep_on(data.draw(st.integers(1, 3)))
                    worker.checkpoint()
                    check_store(worker)
                case "restart":
                    worker.checkpoint()
                    worker.restart()
                case "look":
                    for name in CUSTOMERS:
                        if (known := worker.ingest.customer(name)) is not None:
                            known.snapshot()
                case "die":
                    worker.die_while_writing()
                    died = True
            if died:
                break
    for _ in range(3):
        worker.checkpoint()
        check_store(worker)


def without_meta(state: dict[bytes, bytes], erased: set[str]) -> dict[bytes, bytes]:
    return {key: value for key, value in without_erasures(state, erased).items() if key != keys.META}


@settings(max_examples=examples(120), deadline=None)
@given(
    events=st.one_of(sent_events(erasures=True), with_late_ones(sent_events(erasures=True))),
    later_ms=st.sampled_from([0, DAY_MS, 100 * DAY_MS]),
    config=st.sampled_from(CONFIGS),
    cache_bytes=st.sampled_from([0, 1 << 30]),
    data=st.data(),
)
def test_pieces_timers_and_erasures(
    events: list[Sent], later_ms: int, config: CoreConfig, cache_bytes: int, data: Any
) -> None:
    events = marked(events)
    log = log_of(events, max(sent.ts_ms for sent in events) + later_ms)
    worker = Worker(config, cache_bytes)
    live(worker, log, data)
    expected = undisturbed(log, config=config)
    expected.checkpoint()
    check_store(expected)
    erased = {sent.customer for sent in events if sent.body is None}
    assert without_meta(worker.state(), erased) == without_meta(expected.state(), erased)
    for name in erased:
        known = worker.ingest.customer(name)
        before = -1 if known is None else known.erased_ms
        kept = [value for key, value in worker.store.scan(b"", b"\xff") if name.encode() in key]
        for number, sent in enumerate(events):
            if sent.customer == name and sent.body is not None and sent.ts_ms <= before:
                assert not any(b"MARK%04d" % number in value for value in kept), "an event from before the erasure"
