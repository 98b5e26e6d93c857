"""Brokers behind a proxy, and worker processes that are killed and replaced: what a schedule acts on."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError as AIOKafkaError
from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.faults.proxy import Proxy
from schemas.errors import ConfigError, Stop
from streams.brokers.apache import ApacheBroker
from streams.brokers.embedded import EmbeddedBroker
from streams.brokers.processes import Child, tail_of, worker_environment

_POLL_S: Final = 0.1
_IN_FLIGHT_S: Final = 0.5


class Cluster:
    """Apache Kafka whose clients come through a proxy, or the embedded broker without one.

    ``bootstrap`` is for workers; ``direct`` leads past the proxy, for the harness itself.
    """

    def __init__(self, kind: str, nodes: int, folder: Path) -> None:
        self.kind, self.nodes = kind, nodes if kind == "apache" else 0
        self.proxy: Proxy | None = None
        self._apache: ApacheBroker | None = None
        self._embedded: EmbeddedBroker | None = None
        if kind == "apache":
            # Three nodes that were killed recover their logs, and wait until they may register again.
            self._apache = ApacheBroker(nodes=nodes, data_dir=folder / "kafka", timeout_s=240.0)
            self.proxy = Proxy([self._apache.client_address(node) for node in range(nodes)])
            self._apache.advertised = dict(enumerate(self.proxy.addresses))
        elif kind == "embedded":
            self._embedded = EmbeddedBroker()
        else:
            raise ConfigError(f"--broker {kind}: apache or embedded")

    @property
    def bootstrap(self) -> str:
        return self._apache.bootstrap if self._apache is not None else self.direct

    @property
    def direct(self) -> str:
        if self._apache is not None:
            return self._apache.internal_bootstrap
        assert self._embedded is not None
        return self._embedded.bootstrap

    def start(self) -> None:
        if self.proxy is not None:
            self.proxy.start()
        broker = self._apache or self._embedded
        assert broker is not None
        broker.start()

    def stop(self) -> None:
        broker = self._apache or self._embedded
        assert broker is not None
        broker.stop()
        if self.proxy is not None:
            self.proxy.stop()

    def restart_node(self, node: int, *, clean: bool) -> None:
        assert self._apache is not None
        if clean:
            self._apache.stop_node(node)
        else:
            self._apache.kill_node(node)
        self._apache.start_node(node)

    def restart_all(self) -> None:
        assert self._apache is not None
        for node in range(self.nodes):
            self._apache.kill_node(node)
        self._apache.start()


def freeze_code(folder: Path) -> Path:
    """Copy the packages, so that a worker that starts late runs the code of the one that started first."""
    here = Path(__file__).resolve().parents[2]
    for package in ("schemas", "models", "streams"):
        shutil.copytree(here / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class Fleet:
    """Worker processes of one prefix. Each has a folder; a replacement takes it over, or an empty one.

    Every other folder's worker keeps standbys, so that partitions are taken over with and without them.

    Args:
        code: see :func:`freeze_code`.
    """

    def __init__(
        self, bootstrap: str, prefix: str, partitions: int, roles: str, model: Path, folder: Path, code: Path
    ) -> None:
        self._folder = folder
        program = f"import sys; sys.path.insert(0, {str(code)!r}); from streams.cli import main; sys.exit(main())"
        self._argv = [sys.executable, "-c", program, "worker", "--roles", roles]
        folder.mkdir(parents=True, exist_ok=True)
        self._settings: dict[str, object] = {
            "kafka.bootstrap": bootstrap,
            "kafka.prefix": prefix,
            "kafka.partitions": partitions,
            "model_dir": model,
            # What a partition does after a quiet time depends on the wall clock, which no two runs share.
            "ingest.idle_ms": 0,
            "encode.threads": 1,
        }
        self.workers: list[tuple[str, Child]] = []
        self.exits: list[str] = []
        """What was said by workers that ended by themselves."""
        self._disks = 0

    def start(self, name: str | None = None) -> None:
        """One more worker, on a folder of its own or on that of an earlier one."""
        if name is None:
            name = f"disk-{self._disks}"
            self._disks += 1
        own = {"state_dir": self._folder / name, "standby": int(name.removeprefix("disk-")) % 2 == 1}
        child = Child(self._argv, self._folder / f"{name}.log", env=worker_environment(self._settings | own))
        self.workers.append((name, child))

    def take(self, index: int) -> tuple[str, Child]:
        """Remove one from the fleet's books, to be ended by the caller."""
        return self.workers.pop(index % len(self.workers))

    def kill(self, index: int) -> str:
        """SIGKILL; the name of the folder it leaves."""
        name, child = self.take(index)
        child.kill()
        return name

    def child(self, index: int) -> Child:
        return self.workers[index % len(self.workers)][1]

    def supervise(self) -> None:
        """Start again what ended by itself, as any process supervisor would, and remember it."""
        for name, child in [entry for entry in self.workers if not entry[1].running]:
            self.workers.remove((name, child))
            log_end = tail_of(self._folder / f"{name}.log", 6)
            self.exits.append(f"{name} ended with status {child.returncode}: {log_end}")
            child.kill()
            self.start(name)
            if len(self.exits) > 60:
                raise Stop(f"workers end by themselves again and again: {self.exits[-1]}")

    def stop(self) -> None:
        for _, child in self.workers:
            child.send_signal(signal.SIGCONT)
            child.request_stop()
        for _, child in self.workers:
            child.stop(timeout_s=30.0)
        self.workers = []


class GroupProgress:
    """Watches the offsets a group commits, in a thread, and reports when every partition has moved.

    Args:
        topics: full names; every partition of them must get records all the time.
    """

    def __init__(self, bootstrap: str, group: str, topics: Sequence[str], partitions: int) -> None:
        self._places = [TopicPartition(topic, partition) for topic in topics for partition in range(partitions)]
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0}
        )
        self._bootstrap, self._group = bootstrap, group
        self._stopping = threading.Event()
        self._heard = threading.Condition()
        self._latest: tuple[float, dict[tuple[str, int], int]] | None = None
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30.0)
        self._consumer.close()

    def latest(self, asked_after_s: float = 0.0, timeout_s: float = 120.0) -> dict[tuple[str, int], int]:
        """Committed offsets as asked for after a moment of the monotonic clock."""
        with self._heard:
            if not self._heard.wait_for(
                lambda: self._latest is not None and self._latest[0] >= asked_after_s, timeout_s
            ):
                raise Stop("the brokers did not say what is committed in time")
            assert self._latest is not None
            return self._latest[1]

    def await_stable(self, members: int, timeout_s: float) -> bool:
        """Wait until so many members share the partitions, so that what is done next hits a worker at work."""
        try:
            asyncio.run(asyncio.wait_for(self._until_stable(members), timeout_s))
        except TimeoutError:
            return False
        return True

    async def _until_stable(self, members: int) -> None:
        # Not librdkafka's admin client: with brokers that go and come, an assertion in it ended the whole process
        # (rd_kafka_enq_once_del_source_return, version 2.16).
        while True:
            client = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=5_000)
            try:
                await client.start()
                while not _is_stable(await client.describe_consumer_groups([self._group]), members):
                    await asyncio.sleep(_POLL_S)
            except (AIOKafkaError, OSError, TimeoutError):
                await asyncio.sleep(_POLL_S)
            else:
                return
            finally:
                await client.close()

    def moved_at(self, since_s: float, timeout_s: float, while_waiting: Any) -> float | None:
        """When every partition had committed more than at ``since_s``; None where one had not in time."""
        before = self.latest(since_s + _IN_FLIGHT_S)  # a dead worker's last commit may still be on its way
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            now = self.latest(time.monotonic())
            places = [(place.topic, place.partition) for place in self._places]
            if all(now.get(place, -1) > before.get(place, -1) for place in places):
                return time.monotonic()
            while_waiting()
            time.sleep(_POLL_S / 2)
        return None

    def _watch(self) -> None:
        while not self._stopping.is_set():
            asked_s = time.monotonic()
            try:
                answer = self._consumer.committed(self._places, timeout=5.0)
            except KafkaException:
                time.sleep(_POLL_S)
                continue
            found = {(place.topic, place.partition): place.offset for place in answer if place.offset >= 0}
            with self._heard:
                self._latest = asked_s, found
                self._heard.notify_all()
            time.sleep(_POLL_S)


def _is_stable(answers: Any, members: int) -> bool:
    """Whether a described group has so many members, and each of them partitions."""
    ((answer,),) = (tuple(response.groups) for response in answers)
    code, _, state, _, _, found = answer[:6]
    assigned = [ConsumerProtocolMemberAssignment.decode(member[4]) for member in found if member[4]]
    return (
        code == 0
        and state == "Stable"
        and len(found) == members == len(assigned)
        and all(any(partitions for _, partitions in one.assignment) for one in assigned)
    )
