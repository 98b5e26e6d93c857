"""Runs contenders of the graph benches, each in a process of its own, and checks what state they ended with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from infra.bench import graph_peers
from infra.bench.graph_data import Totals, check
from infra.bench.graph_job import ContenderResult, Job
from schemas.errors import Stop
from streams.brokers.apache import KAFKA_VERSION
from streams.brokers.processes import Child, tail_of

#: Kind of job -> its name in reports. Two guarantees of Kafka Streams are two contenders.
NAMES: Final = {
    "ours-graph": "pulsegraph",
    "faust-graph": "Faust Table",
    "quix": "Quix Streams",
    "streams": "Kafka Streams, at least once",
    "streams-eos": "Kafka Streams, exactly once",
    "ours-empty": "pulsegraph",
    "faust-empty": "Faust agent",
}
#: Contenders of the small job besides ours.
PEERS: Final = ("faust-graph", "quix", "streams", "streams-eos")
_PATIENCE_S: Final = 600.0
_HEAP_MB: Final = 768


class Runner:
    """Starts jobs.

    Args:
        folder: for logs and the peers' own files; kept. Local state is in it too, and begins empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "contenders.log"
        self._commands: dict[str, list[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "state", ignore_errors=True)
        self._log.unlink(missing_ok=True)

    def prepare(self, kinds: tuple[str, ...], say: Callable[[str], None]) -> dict[str, str]:
        """Fetch what these kinds need; returns versions for the report."""
        versions: dict[str, str] = {}
        ours = [sys.executable, "-m", "infra.bench.jobs"]
        for kind in kinds:
            if kind == "quix":
                say(f"Quix Streams {graph_peers.QUIX_VERSION} in an environment of its own")
                self._commands[kind] = [str(graph_peers.quix_python(self._folder)), str(graph_peers.QUIX_JOB)]
                versions["quixstreams"] = graph_peers.QUIX_VERSION
            elif kind.startswith("streams"):
                jars = graph_peers.streams_jars()
                self._commands[kind] = ["java", f"-Xmx{_HEAP_MB}m", "-cp", f"{jars}/*", str(graph_peers.STREAMS_JOB)]
                self._commands[kind][1:1] = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
                versions["kafka-streams"] = KAFKA_VERSION
                versions["java"] = _java()
            else:
                self._commands[kind] = ours
        return versions

    def state_folder(self, app: str) -> Path:
        return self._folder / "state" / app

    def forget(self, app: str) -> None:
        """Remove an app's local state."""
        shutil.rmtree(self.state_folder(app), ignore_errors=True)

    def run(self, job: Job, wanted: Totals | None) -> ContenderResult:
        """One job, from its start to its end.

        Args:
            wanted: the sums its store must end with.

        Raises:
            Stop: it failed, hung, or its state is wrong.
        """
        name = NAMES.get(job.kind, job.kind)
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        begin = self._log.stat().st_size if self._log.exists() else 0
        child = Child([*self._commands[job.kind], msgspec.json.encode(job).decode()], self._log)
        try:
            status = child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Stop(f"{name} did not end in {_PATIENCE_S:.0f} s: {tail_of(self._log)}") from None
        finally:
            child.kill()
        if status != 0:
            raise Stop(f"{name} ended with {status}: {tail_of(self._log, 30)}")
        with open(self._log, "rb") as log:
            log.seek(begin)
            lines = [line for line in log.read().splitlines() if line.startswith(b'{"events"')]
        if not lines:
            raise Stop(f"{name} said nothing: {tail_of(self._log)}")
        outcome = msgspec.json.decode(lines[-1], type=ContenderResult)
        if wanted is not None:
            if outcome.totals is None:
                raise Stop(f"{name} did not report its sums")
            check(name, outcome.totals, wanted)
        return outcome


def _java() -> str:
    shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    return shown.splitlines()[0] if shown else "unknown"
