"""Resident memory and disk as customers grow, of the ingest core on RocksDB with a worker's caches.

In a process of its own, a RocksDB gets 100,000 ready-made customers, and then a million. Each time 40,000 visits of
five events go to customers drawn evenly: sessions end, snapshots are taken, labels are pending, and every cache comes
to hold what it holds in the long run. *Resident* is the highest ``VmRSS`` after a checkpoint of that, less what the
process had before its first customer (interpreter, modules, an empty database).
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from infra.bench.report import Findings, Measured, Options, Say, Target
from infra.bench.visits import BUYING, START_MS, Partition, fill, open_store
from streams.core.config import HOUR_MS, MINUTE_MS
from streams.runtime.app import GC_THRESHOLDS
from streams.settings.schema import IngestSettings
from streams.state.rocks import WORKER_BYTES

ABOUT: Final = "resident memory and disk per customer at 100,000 and 1,000,000 customers"

_CUSTOMERS: Final = 1_000_000
_CHECKPOINTS: Final = 10
_CHECKPOINT_VISITS: Final = 4_000
_FIRST_OFFSET: Final = 1_000_000
_GIB: Final = float(1 << 30)


class Mark(msgspec.Struct, frozen=True):
    """What the process holds when so many customers are known."""

    customers: int
    resident_bytes: int
    disk_bytes: int


def run(options: Options, say: Say) -> Findings:
    """One process for both sizes."""
    customers = options.scaled(_CUSTOMERS, 1_000)
    folder = options.folder / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    marks = []
    for mark in _child(customers, folder):
        say(f"{mark.customers:,} customers: {_mib(mark.resident_bytes)} resident, {_mib(mark.disk_bytes)} on disk")
        marks.append(mark)
    shutil.rmtree(folder, ignore_errors=True)
    base, few, many = marks
    above = {mark.customers: mark.resident_bytes - base.resident_bytes for mark in (few, many)}
    cache_bytes = IngestSettings().cache_bytes
    results = [
        Measured(name="before the first customer", unit="MiB", values=[base.resident_bytes / 2**20], note="resident"),
    ]
    for mark in (few, many):
        name = f"{mark.customers:,} customers"
        results += [
            Measured(name=f"{name}, resident above that", unit="MiB", values=[above[mark.customers] / 2**20]),
            Measured(name=f"{name}, resident", unit="bytes/customer", values=[above[mark.customers] / mark.customers]),
            Measured(name=f"{name}, disk", unit="bytes/customer", values=[mark.disk_bytes / mark.customers]),
        ]
    return Findings(
        results=results,
        targets=[
            Target(
                name=f"GiB resident for {many.customers:,} customers, all told",
                value=many.resident_bytes / _GIB,
                target=0.5 * max(1.0, many.customers / 1_000_000),
                at_most=True,
            ),
            Target(
                name=f"resident at {many.customers:,} / at {few.customers:,} customers, above an empty process",
                value=above[many.customers] / above[few.customers],
                target=1.2,
                at_most=True,
            ),
        ],
        left_out=[
            f"One partition with a worker's cache of {_mib(cache_bytes)} for decoded customers, which several "
            f"partitions would share, and {_mib(WORKER_BYTES)} for RocksDB. The Kafka clients' buffers and the "
            "model's vocabulary are not in the process.",
        ],
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


def _child(customers: int, folder: Path) -> Iterator[Mark]:
    command = [sys.executable, "-m", __name__, str(customers), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield msgspec.json.decode(line, type=Mark)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def grow(customers: int, folder: Path) -> Iterator[Mark]:
    """A mark before the first customer, at a tenth of them and at the end."""
    store = open_store(folder)
    partition = Partition(store, IngestSettings().cache_bytes, first_offset=_FIRST_OFFSET)
    yield Mark(0, _resident_bytes(), _disk_bytes(folder))
    now_ms, random = START_MS, Random(11)
    visits = max(100, _CHECKPOINT_VISITS * customers // _CUSTOMERS)
    known = 0
    for mark in (customers // 10, customers):
        fill(store, range(known, mark))
        known, highest = mark, 0
        for _ in range(_CHECKPOINTS):
            now_ms += HOUR_MS
            for number in random.sample(range(known), min(known, visits)):
                partition.visit(number, now_ms, BUYING)
            partition.end_epoch(now_ms + 5 * MINUTE_MS)
            highest = max(highest, _resident_bytes())
        yield Mark(known, highest, _disk_bytes(folder))
    store.close()


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def _disk_bytes(folder: Path) -> int:
    """Blocks that files take, as ``du`` counts them."""
    return sum(512 * entry.stat().st_blocks for entry in os.scandir(folder) if entry.is_file())


if __name__ == "__main__":
    gc.set_threshold(*GC_THRESHOLDS)
    for reached in grow(int(sys.argv[1]), Path(sys.argv[2])):
        sys.stdout.buffer.write(msgspec.json.encode(reached) + b"\n")
        sys.stdout.buffer.flush()
