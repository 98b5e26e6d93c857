"""The small graph job of ``pulsegraph bench state`` on Quix Streams, in an environment of its own.

``python quix_graph.py JOB``: JOB is described in infra/bench/graph_job.py; the last line is a ContenderResult.
"""

import json
import sys
import time
from math import exp, log
from pathlib import Path

from quixstreams import Application, State
from quixstreams.state.rocksdb import RocksDBOptions
from rocksdict import AccessType, Rdict

DECAY_PER_MS = log(2) / (28 * 86_400_000)
SESSION_GAP_MS = 1_800_000
TAIL_EVENTS = 64
STATE_KEY = "g"


class QuixGraph:
    """The job, and a clock around it."""

    def __init__(self, job: dict, stop) -> None:
        self.warm, self.take, self.stop = job["warm"], job["take"], stop
        self.count = 0
        self.began_s = self.stopped_s = self.cpu_s = 0.0

    def apply(self, event: dict, state: State) -> None:
        if self.count == self.take:
            return
        item, ms = event["item_id"], event["event_ts_ms"]
        known = state.get(STATE_KEY) or {"n": 0, "edges": {}, "tail": []}
        edge = known["edges"].get(item)
        if edge is None:
            known["edges"][item] = [1.0, 1, ms]
        else:
            edge[0] = edge[0] * exp((edge[2] - ms) * DECAY_PER_MS) + 1.0
            edge[1] += 1
            edge[2] = ms
        tail = known["tail"]
        if tail and ms - tail[-1][0] > SESSION_GAP_MS:
            tail.clear()
        elif len(tail) == TAIL_EVENTS:
            del tail[0]
        tail.append([ms, item])
        known["n"] += 1
        state.set(STATE_KEY, known)
        self.count += 1
        if self.count == self.warm:
            self.began_s, self.cpu_s = time.perf_counter(), time.process_time()
        elif self.count == self.take:
            self.stopped_s = time.perf_counter()
            self.cpu_s = time.process_time() - self.cpu_s
            self.stop()


def totals(folder: Path, options: RocksDBOptions) -> dict:
    """Sums over the stores on the disk, after a clean end."""
    found = {"customers": 0, "events": 0, "edges": 0, "weight": 0.0, "tail": 0}
    for marker in sorted(folder.rglob("CURRENT")):
        path = str(marker.parent)
        families = {name: options.to_options() for name in Rdict.list_cf(path)}
        database = Rdict(
            path, options=options.to_options(), column_families=families, access_type=AccessType.read_only()
        )
        for value in database.values():
            known = options.loads(value)
            found["customers"] += 1
            found["events"] += known["n"]
            found["tail"] += len(known["tail"])
            found["edges"] += sum(edge[1] for edge in known["edges"].values())
            found["weight"] += sum(edge[0] for edge in known["edges"].values())
        database.close()
    return found


def main() -> None:
    job = json.loads(sys.argv[1])
    options = RocksDBOptions(block_cache_size=job["block_cache_bytes"])
    app = Application(
        broker_address=job["bootstrap"],
        consumer_group=job["app"],
        auto_offset_reset="earliest",
        commit_interval=job["commit_ms"] / 1000,
        state_dir=job["folder"],
        rocksdb_options=options,
        loglevel="WARNING",
    )
    graph = QuixGraph(job, lambda: app.stop())
    topic = app.topic(job["topic"], key_deserializer="bytes", value_deserializer="json")
    app.dataframe(topic).update(graph.apply, stateful=True)
    app.run()
    outcome = {
        "events": job["take"] - job["warm"],
        "seconds": graph.stopped_s - graph.began_s,
        "cpu_s": graph.cpu_s,
        "totals": totals(Path(job["folder"]), options),
    }
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
