"""Apache Kafka 4.3.1 in KRaft mode from Maven artifacts: one node, or a cluster of three, on this machine.

The jars are fetched once by Maven into ``~/.cache/pulsegraph/kafka-4.3.1`` (``PULSEGRAPH_CACHE`` moves the folder).
Each node is broker and controller. Clients use the listener CLIENT, whose security a caller may choose; the nodes
talk to each other on INTERNAL, in plain text on 127.0.0.1.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

from schemas.errors import ConfigError, Stop
from streams.brokers import maven
from streams.brokers.embedded import wait_until_ready
from streams.brokers.processes import Child, free_ports, tail_of

KAFKA_VERSION: Final = "4.3.1"
MIN_JAVA: Final = 17
_JARS: Final = tuple(f"{name}-{KAFKA_VERSION}.jar" for name in ("kafka_2.13", "kafka-server"))
POM: Final = Path(__file__).resolve().with_name("pom.xml")

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


class _Ports(msgspec.Struct, frozen=True):
    client: int
    internal: int
    controller: int


class _Layout(msgspec.Struct, frozen=True):
    """What a data folder remembers, so that a cluster can be started again on it."""

    cluster_id: str
    ports: list[_Ports]


def missing_tools() -> str | None:
    """What Apache Kafka needs and this machine lacks, as a sentence; None where nothing is missing."""
    java = shutil.which("java")
    if java is None:
        return f"Apache Kafka needs Java {MIN_JAVA} or newer, and there is no `java` on the PATH"
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', shown)
    if found is None or int(found[1]) < MIN_JAVA:
        return f"Apache Kafka needs Java {MIN_JAVA} or newer; `java -version` says: {shown.splitlines()[:1]}"
    if not maven.complete(jar_dir(), _JARS) and shutil.which("mvn") is None:
        return (
            f"Apache Kafka's jars are not in {jar_dir()} yet, and there is no `mvn` (Maven) on the PATH to fetch them"
        )
    return None


def jar_dir() -> Path:
    cache = os.environ.get("PULSEGRAPH_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "pulsegraph") / f"kafka-{KAFKA_VERSION}"


def jars_present() -> bool:
    """Whether the jars are cached, so that neither Maven nor a network is needed."""
    return maven.complete(jar_dir(), _JARS)


def fetch_jars() -> Path:
    """The folder with Kafka's jars, filled by Maven the first time (45 MB).

    Raises:
        ConfigError: Java or Maven is missing, or Maven could not fetch the jars.
    """
    lacking = missing_tools()
    if lacking is not None:
        raise ConfigError(f"{lacking}. Install it, or use the embedded broker (`pulsegraph broker`)")
    return maven.fetch(POM, jar_dir(), _JARS, f"Apache Kafka {KAFKA_VERSION}")


class ApacheBroker:
    """Apache Kafka on 127.0.0.1, with nodes that can be stopped, killed and started one by one.

    Args:
        nodes: 1 or 3. Three replicate everything three times and acknowledge at two.
        data_dir: logs, configuration and ports; kept. A temporary folder, removed by :meth:`stop`, where None.
        port: client port of the first node, the following ones next to it; 0 takes free ones.
        protocol: what clients must speak; SASL and TLS need more in ``properties``.
        properties: further lines of ``server.properties``, for every node.
        heap_mb: Java heap of one node.
        timeout_s: how long :meth:`start` waits for the first answer.

    Example:
        with ApacheBroker(nodes=3) as kafka:
            kafka.kill_node(1)
            kafka.start_node(1)
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        data_dir: Path | None = None,
        port: int = 0,
        protocol: Protocol = "PLAINTEXT",
        properties: Mapping[str, str] | None = None,
        heap_mb: int = 384,
        timeout_s: float = 60.0,
    ) -> None:
        if nodes not in (1, 3):
            raise ConfigError(f"nodes is {nodes}; Apache Kafka runs here with 1 node or 3")
        self.nodes = nodes
        self._temporary = data_dir is None
        self.data_dir = (data_dir or Path(tempfile.mkdtemp(prefix="pulsegraph-kafka-"))).resolve()
        self._protocol = protocol
        self._properties = dict(properties or {})
        self._heap_mb = heap_mb
        self._timeout_s = timeout_s
        self._children: dict[int, Child] = {}
        self._layout = self._load_layout(port)
        self.advertised: dict[int, str] = {}
        """Node -> ``host:port`` announced to clients instead of its own, such as a proxy's. Set before start."""

    @property
    def bootstrap(self) -> str:
        return ",".join(self.advertised.get(node, self.client_address(node)) for node in range(self.nodes))

    @property
    def internal_bootstrap(self) -> str:
        """The listener of the nodes themselves: plain text, and past whatever is ``advertised``."""
        return ",".join(f"127.0.0.1:{ports.internal}" for ports in self._layout.ports)

    @property
    def log_path(self) -> Path:
        """Log of the first node; the others lie beside it."""
        return self._log(0)

    def client_address(self, node: int) -> str:
        return f"127.0.0.1:{self._layout.ports[node].client}"

    def start(self) -> None:
        """Format what is new, start every node and wait until all of them answer.

        Raises:
            ConfigError: Java, Maven or the jars are missing.
            Stop: the cluster did not answer in time.
        """
        stopped = [node for node in range(self.nodes) if not self.running(node)]
        self._configure(stopped)
        for node in stopped:
            self._launch(node)
        for node in range(self.nodes):
            self._await(node, whole_cluster=True)

    def stop(self) -> None:
        # All at once: a controller that is left alone without a majority waits in vain for a clean shutdown.
        children, self._children = list(self._children.values()), {}
        for child in children:
            child.request_stop()
        for child in children:
            child.stop(timeout_s=20.0)
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def start_node(self, node: int) -> None:
        """Start one node and wait until it answers."""
        if not self.running(node):
            self._configure([node])
            self._launch(node)
        self._await(node, whole_cluster=False)

    def stop_node(self, node: int) -> None:
        """Stop one node in good order: it hands its leaderships over first."""
        if node in self._children:
            self._children.pop(node).stop(timeout_s=30.0)

    def kill_node(self, node: int) -> None:
        """SIGKILL one node."""
        if node in self._children:
            self._children.pop(node).kill()

    def running(self, node: int) -> bool:
        return node in self._children and self._children[node].running

    def node(self, node: int) -> Child:
        """The process of a running node, for signals."""
        return self._children[node]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _load_layout(self, port: int) -> _Layout:
        path = self.data_dir / "layout.json"
        if path.exists():
            layout = msgspec.json.decode(path.read_bytes(), type=_Layout)
            if len(layout.ports) != self.nodes:
                raise ConfigError(
                    f"{self.data_dir} holds a cluster of {len(layout.ports)} nodes; start it with that number"
                )
            if port in (0, layout.ports[0].client):
                return layout
            kept = [_Ports(port + n, p.internal, p.controller) for n, p in enumerate(layout.ports)]
            layout = _Layout(layout.cluster_id, kept)
        else:
            free = free_ports(3 * self.nodes)
            ports = [
                _Ports(port + n if port else free[3 * n], free[3 * n + 1], free[3 * n + 2]) for n in range(self.nodes)
            ]
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            # Kafka's command line takes an id that begins with a dash for an option.
            layout = _Layout("A" + cluster_id[1:], ports)
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode(layout))
        except OSError as error:
            raise ConfigError(f"cannot keep Kafka's data in {self.data_dir}: {error}") from error
        return layout

    def _log(self, node: int) -> Path:
        return self.data_dir / f"node-{node}.log"

    def _java(self, level: int) -> list[str]:
        """The command line up to the class. ``level`` bounds the compiler: 1 starts soonest, 4 runs fastest."""
        return [
            "java",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            f"-XX:TieredStopAtLevel={level}",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
            "-cp",
            f"{fetch_jars()}/*",
        ]

    def _configure(self, nodes: Iterable[int]) -> None:
        """Write ``server.properties``, and format the storage of nodes that have none, side by side."""
        running: list[tuple[Path, subprocess.Popen[str]]] = []
        for node in nodes:
            config = self._config(node)
            config.write_text("".join(f"{name}={value}\n" for name, value in self._server_properties(node).items()))
            if not (self._kafka_logs(node) / "meta.properties").exists():
                argv = [*self._java(1), "kafka.tools.StorageTool", "format", "-t", self._layout.cluster_id]
                output = subprocess.PIPE
                process = subprocess.Popen([*argv, "-c", str(config)], stdout=output, stderr=output, text=True)
                running.append((config, process))
        said = [(config, process, "".join(process.communicate())) for config, process in running]
        for config, process, text in said:
            if process.returncode != 0:
                raise Stop(f"Kafka's storage tool failed on {config}: {text[-800:]}")

    def _launch(self, node: int) -> None:
        argv = [*self._java(4), "kafka.Kafka", str(self._config(node))]
        self._children[node] = Child(argv, self._log(node))

    def _await(self, node: int, *, whole_cluster: bool) -> None:
        child = self._children[node]
        address = f"127.0.0.1:{self._layout.ports[node].internal}"
        if not wait_until_ready(address, self._timeout_s, nodes=self.nodes if whole_cluster else 1, child=child):
            state = "is still starting" if child.running else f"ended with status {child.returncode}"
            raise Stop(
                f"Kafka node {node} did not answer in {self._timeout_s:.0f} s and {state}: {tail_of(self._log(node))}"
            )

    def _config(self, node: int) -> Path:
        return self.data_dir / f"node-{node}.properties"

    def _kafka_logs(self, node: int) -> Path:
        return self.data_dir / f"node-{node}"

    def _server_properties(self, node: int) -> dict[str, str]:
        ports = self._layout.ports[node]
        replicas = str(self.nodes)
        in_sync = "2" if self.nodes == 3 else "1"
        voters = ",".join(f"{n + 1}@127.0.0.1:{p.controller}" for n, p in enumerate(self._layout.ports))
        return {
            "process.roles": "broker,controller",
            "node.id": str(node + 1),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENT://127.0.0.1:{ports.client},INTERNAL://127.0.0.1:{ports.internal},"
            f"CONTROLLER://127.0.0.1:{ports.controller}",
            "advertised.listeners": f"CLIENT://{self.advertised.get(node, self.client_address(node))},"
            f"INTERNAL://127.0.0.1:{ports.internal}",
            "listener.security.protocol.map": f"CLIENT:{self._protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "log.dirs": str(self._kafka_logs(node)),
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "group.initial.rebalance.delay.ms": "0",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": str(16 << 20),
        } | self._properties
