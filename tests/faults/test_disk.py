"""Disks that lie, fill up or cannot be written: loud, and nothing is lost, because the changelog has it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline, differences, stored
from support.small_model import save_small_model

from schemas import heartbeat
from schemas.errors import ConfigError, DiskFailed, StateCorrupt
from schemas.events import SOURCES
from schemas.records import LogRecord
from schemas.words import Words
from streams.core.config import CoreConfig
from streams.core.partition import IngestPartition
from streams.kafka.partitioning import partition_for
from streams.sources.replay import OrderedProducer
from streams.state import keys
from streams.state.checkpoints import StoredRecords, local_batch
from streams.state.contract import WriteBatch
from streams.state.memory import MemoryStore
from streams.state.rocks import RocksStore, shared_memory

CACHE = shared_memory(8 << 20)
PARTITIONS = 2


def filled(path: Path) -> Path:
    """A database with everything in one SST file."""
    store = RocksStore(path, CACHE)
    batch = WriteBatch()
    for number in range(20_000):
        batch.put(b"c%05d" % number, os.urandom(50))
    store.write(batch)
    store._open.flush()
    store.close()
    return path


def _flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0xFF
    path.write_bytes(bytes(content))


SPOILT: dict[str, Callable[[Path], object]] = {
    "CURRENT is garbage": lambda path: (path / "CURRENT").write_bytes(b"garbage\n"),
    "MANIFEST is garbage": lambda path: next(path.glob("MANIFEST-*")).write_bytes(os.urandom(1_000)),
    "MANIFEST is cut": lambda path: os.truncate(next(path.glob("MANIFEST-*")), 20),
    "an SST is garbage": lambda path: next(path.glob("*.sst")).write_bytes(os.urandom(5_000)),
    "an SST is gone": lambda path: next(path.glob("*.sst")).unlink(),
    "an SST is cut": lambda path: os.truncate(next(path.glob("*.sst")), 1_000),
    "a block's bit is flipped": lambda path: _flip(next(path.glob("*.sst")), 0.4),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_database_is_never_read_as_a_good_one(name: str, tmp_path: Path) -> None:
    path = filled(tmp_path / "p")
    SPOILT[name](path)

    def read() -> list[bytes | None]:
        store = RocksStore(path, CACHE)
        try:
            return store.multi_get([b"c%05d" % number for number in range(20_000)])
        finally:
            store.close()

    for _ in range(2):  # a second attempt must not get further: RocksDB opens a file with a bad block quite happily
        with pytest.raises(StateCorrupt, match=str(path)):
            read()


def test_a_database_without_its_root_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "p")
    (path / "CURRENT").unlink()
    with pytest.raises(StateCorrupt, match="contains existing log file"):
        RocksStore(path, CACHE)


def test_a_folder_in_use_is_no_corrupt_one(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "p", CACHE)
    with pytest.raises(ConfigError, match="in use by another worker"):
        RocksStore(tmp_path / "p", CACHE)
    store.close()
    RocksStore(tmp_path / "p", CACHE).close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of one's own; mounting needs root."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
        return path

    yield mount
    subprocess.run(["umount", str(path)], capture_output=True)


def test_a_read_only_disk_is_said_and_left_alone(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=64m")
    RocksStore(disk / "p", CACHE).close()
    before = sorted(os.listdir(disk / "p"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for path in (disk / "p", disk / "new"):
        with pytest.raises(DiskFailed, match="Read-only"):
            RocksStore(path, CACHE)
    assert sorted(os.listdir(disk / "p")) == before


def test_a_full_disk_is_said_and_what_was_written_stays(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=4m")
    store = RocksStore(disk / "p", CACHE)
    written = 0

    def write() -> None:
        batch = WriteBatch()
        batch.put(b"c%03d" % written, os.urandom(100_000))
        store.write(batch)

    with pytest.raises(DiskFailed, match="No space left") as error:  # noqa: PT012 - which write it is depends on the disk
        while written < 1_000:
            write()
            written += 1
    assert "Nothing is lost: free the disk" in str(error.value)
    store.close()
    with pytest.raises(OSError, match="No space left"):  # closing may have freed a little
        (disk / "filler").write_bytes(bytes(8 << 20))
    with pytest.raises(DiskFailed, match="No space left"):
        RocksStore(disk / "new", CACHE)
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    store = RocksStore(disk / "p", CACHE)
    assert sum(1 for _ in store.scan(b"c", b"d")) == written > 10
    store.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_small_model(tmp_path_factory.mktemp("model") / "model")
    return path


class Shop:
    """A deployment with one ingest worker, and events for it."""

    def __init__(self, bootstrap: str, prefix: str, model: Path, folder: Path) -> None:
        self.pipeline = Pipeline(bootstrap, prefix, PARTITIONS, model, folder)
        self.produced = 0
        self.now_ms = int(time.time() * 1000) - 86_400_000
        self._producer = OrderedProducer(bootstrap)
        self._prefix = prefix

    def sell(self, events: int) -> None:
        """Purchases of 500 customers, closed by a heartbeat on every partition."""
        for _ in range(events):
            self.now_ms += 1_000
            self.produced += 1
            key = b"c%d" % (self.produced * 7919 % 500)
            body = {"event": "purchase", "event_ts_ms": self.now_ms, "item_id": f"{self.produced % 40}", "value": 2.0}
            self._send("clickstream", key, json.dumps(body).encode(), partition_for(key, PARTITIONS))
        for topic in SOURCES:
            for partition in range(PARTITIONS):
                self._send(topic, *heartbeat.encode(self.now_ms)[:2], partition)
                self.produced += 1
        self._producer.deliver()

    def _send(self, topic: str, key: bytes, value: bytes, partition: int) -> None:
        self._producer.send(self._prefix + topic, key, value, partition)

    def expected(self) -> dict[tuple[str, str, bytes], bytes]:
        """State by the core alone, from the topics as they are."""
        by_place: dict[tuple[int, int], list[LogRecord]] = {}
        for source_index, topic in enumerate(SOURCES):
            for message in self.pipeline.read(topic):
                record = LogRecord(message.offset(), message.key(), message.value(), (), message.timestamp()[1])
                by_place.setdefault((message.partition(), source_index), []).append(record)
        found: dict[tuple[str, str, bytes], bytes] = {}
        for partition in range(PARTITIONS):
            store = MemoryStore()
            options: Any = {"cache_bytes": 1 << 30, "idle_ms": 0, "now_ms": 0}
            ingest = IngestPartition(partition, CoreConfig(), Words(), StoredRecords(store), None, **options)
            for source_index in range(len(SOURCES)):
                ingest.take(source_index, by_place.get((partition, source_index), []), 0)
            store.write(local_batch(ingest.checkpoint(0), -1))
            for key, value in store.scan(b"", b"\xff"):
                if key != keys.META:
                    found["ingest", f"p{partition:05d}", key] = value
        return found

    def state(self) -> dict[tuple[str, str, bytes], bytes]:
        found: dict[tuple[str, str, bytes], bytes] = stored([self.pipeline.state_dir()])
        return found


@pytest.fixture
def shop(broker: Any, make_topics: Callable[..., str], model: Path, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(broker.bootstrap, make_topics(partitions=PARTITIONS), model, tmp_path)
    yield shop
    shop.pipeline.stop()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_sets_spoilt_state_aside_and_rebuilds_it(shop: Shop) -> None:
    pipeline = shop.pipeline
    shop.sell(2_000)
    worker = pipeline.start_worker(roles="ingest")
    pipeline.await_taken(shop.produced)
    worker.stop(timeout_s=30.0)
    assert worker.returncode == 0
    assert not differences(shop.state(), shop.expected())
    folders = [pipeline.state_dir() / "ingest" / f"p{partition:05d}" for partition in range(PARTITIONS)]
    (folders[0] / "CURRENT").write_bytes(b"garbage\n")
    next(folders[1].glob("MANIFEST-*")).write_bytes(os.urandom(500))
    shop.sell(500)
    worker = pipeline.start_worker(roles="ingest")
    pipeline.await_taken(shop.produced)
    worker.stop(timeout_s=30.0)
    assert worker.returncode == 0
    log = pipeline.log().read_text()
    assert log.count("was set aside as") == 2
    assert all(folder.with_name(folder.name + ".quarantine").is_dir() for folder in folders)
    assert not differences(shop.state(), shop.expected())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_stops_on_a_full_disk_and_goes_on_where_it_was(shop: Shop) -> None:
    pipeline = shop.pipeline
    shop.sell(1_000)
    worker = pipeline.start_worker(roles="ingest")
    pipeline.await_taken(shop.produced)
    # No file of the worker may grow any further: its log of writes is far beyond this already.
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (32 << 10, resource.RLIM_INFINITY))
    taken = pipeline.taken()
    shop.sell(3_000)
    assert worker.wait(60.0) == 2
    log = pipeline.log().read_text()
    assert "File too large. Nothing is lost: free the disk" in log
    assert "Traceback" not in log
    assert pipeline.taken() < shop.produced
    assert pipeline.taken() >= taken
    worker = pipeline.start_worker(roles="ingest")
    pipeline.await_taken(shop.produced)
    worker.stop(timeout_s=30.0)
    assert worker.returncode == 0
    assert "set aside" not in pipeline.log().read_text()
    assert not differences(shop.state(), shop.expected())
