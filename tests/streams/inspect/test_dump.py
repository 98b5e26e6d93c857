"""The canonical dump: sorted, complete, and the same from whatever it is read."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from support.logs import Sent, Worker, log_of

from schemas.errors import ConfigError
from schemas.events import CLICKSTREAM, PROFILES
from schemas.words import hash_of
from streams.core.config import DAY_MS, HOUR_MS
from streams.core.customer import EDGES, HISTORY
from streams.core.history import FRESH_ENTRIES
from streams.inspect import dump
from streams.state import keys
from streams.state.checkpoints import LocalMeta, _encode, read_meta
from streams.state.contract import WriteBatch
from streams.state.rocks import RocksStore, shared_memory

START_MS = 1_500_000_000_000


def _worker(visits: int = 0) -> Worker:
    """What some customers left, and adam's further visits on as many days, each for an item of its own."""
    bought = {"event": "purchase", "item_id": "a"}
    sent = [
        Sent(CLICKSTREAM, name, START_MS + number, bought | {"event_ts_ms": START_MS + number})
        for number, name in enumerate(["zoe", "adam", "élodie", "gone"])
    ]
    sent.append(Sent(PROFILES, "gone", START_MS + 1000, None))
    for number in range(visits):
        at_ms = START_MS + HOUR_MS + number * DAY_MS
        sent.append(Sent(CLICKSTREAM, "adam", at_ms, bought | {"event_ts_ms": at_ms, "item_id": f"i{number}"}))
    worker = Worker()
    for source_index, records in enumerate(log_of(sent, until_ms=START_MS + (visits + 1) * DAY_MS)):
        worker.take(source_index, records)
    worker.checkpoint()
    return worker


def test_lines_are_sorted_and_leave_tombstones_out():
    told = [json.loads(line) for line in dump.lines([dump.Part("ingest", 0, _worker().store)])]
    assert told[0]["role"] == "ingest" and told[0]["next_offsets"]["clickstream"] == 5
    names = [line["id"] for line in told[1:]]
    assert names == sorted(["zoe", "adam", "élodie"])
    assert told[1]["state"]["settled"]["events"] == 1


def test_lines_are_the_same_however_customers_are_spread():
    whole = _worker().store
    parts = [_worker().store, _worker().store]
    for number, store in enumerate(parts):
        batch = WriteBatch()
        for at, (key, _) in enumerate(list(store.scan(keys.RECORD, keys.RECORDS_STOP))):
            if at % 2 != number:
                batch.delete(key)
        store.write(batch)

    def customers(stores) -> list:
        lines = dump.lines(dump.Part("ingest", number, store) for number, store in enumerate(stores))
        told = [json.loads(line) for line in lines]
        return [(line["id"], line["digest"], line["state"]) for line in told if "id" in line]

    assert customers([whole]) == customers(parts)


def test_pieces_of_a_customer_are_part_of_the_line():
    def told(worker: Worker) -> Any:
        (line,) = [json.loads(line) for line in dump.lines([dump.Part("ingest", 0, worker.store)]) if b'"adam"' in line]
        return line

    worker = _worker(visits=FRESH_ENTRIES)
    before = told(worker)
    assert before["pieces"].keys() >= {EDGES.hex(), HISTORY.hex()}
    timeline, edges = before["state"]["settled"]["timeline"], before["pieces"][EDGES.hex()]["edges"]
    assert timeline["history"]["merges"] == before["pieces"][HISTORY.hex()]["merges"] == 1
    assert edges["purchase>item"]
    for kind in (EDGES, HISTORY):
        key = keys.piece("adam", kind)
        value = worker.store.get(key)
        changed, restored = WriteBatch(), WriteBatch()
        changed.delete(key)
        restored.put(key, value)
        worker.store.write(changed)
        assert told(worker)["digest"] != before["digest"]
        worker.store.write(restored)
        assert told(worker) == before


def test_words_of_the_open_session_are_base64_like_all_bytes():
    sent = [Sent(CLICKSTREAM, "adam", START_MS, {"event": "purchase", "item_id": "a", "event_ts_ms": START_MS})]
    worker = Worker()
    for source_index, records in enumerate(log_of(sent, until_ms=START_MS + HOUR_MS // 6)):
        worker.take(source_index, records)
    worker.checkpoint()
    line = json.loads(list(dump.lines([dump.Part("ingest", 0, worker.store)]))[1])
    assert line["state"]["settled"]["timeline"]["tally"]["items"] == {b64encode(hash_of("item:a")).decode(): 1}


def _folder(path, worker: Worker, reached: int):
    store = RocksStore(path / "ingest" / "p00003", shared_memory(8 << 20))
    batch = WriteBatch()
    for key, value in worker.store.scan(b"", b"\xff"):
        batch.put(key, value)
    meta = read_meta(worker.store)
    batch.put(keys.META, _encode(LocalMeta(meta.version, reached, meta.partition)))
    store.write(batch)
    store.close()
    return path


def test_of_two_folders_the_newest_of_a_partition_counts(tmp_path):
    empty = Worker()
    empty.checkpoint()
    old, new = _folder(tmp_path / "old", empty, 5), _folder(tmp_path / "new", _worker(), 9)
    with dump.opened_folders([old, new]) as parts:
        found = list(dump.lines(parts))
    with dump.opened_folders([new]) as parts:
        assert found == list(dump.lines(parts))
    assert len(found) == 4


def test_a_folder_without_state_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no state"), dump.opened_folders([tmp_path]):
        pass
