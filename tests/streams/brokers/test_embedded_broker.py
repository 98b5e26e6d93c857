"""Brokers start, answer, stop, and die with us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.errors import ConfigError
from streams.brokers import apache as broker_apache
from streams.brokers.apache import ApacheBroker
from streams.brokers.embedded import EmbeddedBroker
from streams.brokers.processes import Child, free_port

pytestmark = pytest.mark.broker


def _wait_until_gone(pid: int, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        # A process whose parent died may stay as a zombie where nobody reaps, e.g. in a container.
        status = Path(f"/proc/{pid}/status")
        if status.exists() and "State:\tZ" in status.read_text():
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} is still there")


def _create(bootstrap: str, topic: str) -> AdminClient:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    client.create_topics([NewTopic(topic, 1, -1)])[topic].result(10)
    # A node of a cluster may answer for metadata before it has heard of the topic that another one created.
    deadline = time.monotonic() + 10
    while 0 not in client.list_topics(topic).topics[topic].partitions:
        assert time.monotonic() < deadline, f"{topic} was created and is not to be seen"
        time.sleep(0.05)
    return client


def _produce(bootstrap: str, topic: str, count: int) -> None:
    errors: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0})
    for number in range(count):
        producer.produce(topic, str(number), partition=0, on_delivery=lambda e, _: errors.append(e) if e else None)
    assert producer.flush(30) == 0
    assert errors == []


def _read(bootstrap: str, topic: str, count: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "read", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[int] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        found += [int(message.value() or -1) for message in consumer.consume(1000, 0.5) if message.error() is None]
    consumer.close()
    return found


def test_embedded_starts_answers_and_stops() -> None:
    broker = EmbeddedBroker()
    with broker:
        pid = broker.pid
        assert pid is not None
        _create(broker.bootstrap, "t")
        _produce(broker.bootstrap, "t", 100)
        assert _read(broker.bootstrap, "t", 100) == list(range(100))
        assert broker.log_path.exists()
    _wait_until_gone(pid)
    broker.stop()


def test_embedded_stops_at_once_with_clients_connected() -> None:
    with EmbeddedBroker() as broker:
        host, port = broker.bootstrap.split(":")
        connections = [socket.create_connection((host, int(port))) for _ in range(3)]
        started = time.monotonic()
    assert time.monotonic() - started < 2
    for connection in connections:
        connection.close()


def test_embedded_names_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127.0.0.1:\d+; is the port in use"):
            EmbeddedBroker(port=taken.getsockname()[1], timeout_s=3).start()


def test_a_port_that_another_broker_answers_on_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker() as first, monkeypatch.context() as patched:
        port = int(first.bootstrap.split(":")[1])
        # Started, it could be taken for ready because the first one answers.
        patched.setattr("streams.brokers.embedded.Child", lambda *_args, **_options: pytest.fail("started"))
        with pytest.raises(ConfigError, match="is the port in use"):
            EmbeddedBroker(port=port).start()
    with EmbeddedBroker(port=port):
        pass


def test_embedded_names_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log .*/no/log cannot be written: No such file"):
        EmbeddedBroker(log_path=tmp_path / "no" / "log").start()


def test_embedded_without_its_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(ConfigError, match=r"binary is missing.*PULSEGRAPH_KAFKA_BOOTSTRAP"):
        EmbeddedBroker().start()


def test_a_broker_dies_with_a_parent_that_is_killed() -> None:
    code = "from streams.brokers.embedded import EmbeddedBroker as B; import time; b = B(); b.start(); "
    code += "print(b.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(pid)


def test_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], tmp_path / "log")
    while "up" not in (tmp_path / "log").read_text():
        time.sleep(0.01)
    child.stop(timeout_s=0.3)
    assert child.returncode == -signal.SIGKILL
    child.stop()


class TestWithoutTools:
    """What is missing is said before anything is tried."""

    @pytest.fixture(autouse=True)
    def _empty_machine(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("PULSEGRAPH_CACHE", str(tmp_path / "cache"))
        (tmp_path / "bin").mkdir()

    def _tool(self, tmp_path: Path, name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def test_java(self) -> None:
        with pytest.raises(ConfigError, match="no `java` on the PATH"):
            broker_apache.fetch_jars()

    def test_old_java(self, tmp_path: Path) -> None:
        self._tool(tmp_path, "java", """echo 'openjdk version "11.0.2"' >&2""")
        with pytest.raises(ConfigError, match=r"Java 17 or newer; .*11\.0\.2"):
            broker_apache.fetch_jars()

    def test_maven(self, tmp_path: Path) -> None:
        self._tool(tmp_path, "java", """echo 'openjdk version "17.0.2"' >&2""")
        with pytest.raises(ConfigError, match="no `mvn`"):
            broker_apache.fetch_jars()

    def test_maven_that_fails(self, tmp_path: Path) -> None:
        self._tool(tmp_path, "java", """echo 'openjdk version "21"' >&2""")
        self._tool(tmp_path, "mvn", "echo '[ERROR] no network'; exit 1")
        with pytest.raises(ConfigError, match=r"Maven could not fetch.*\n?.*no network"):
            broker_apache.fetch_jars()
        assert list((tmp_path / "cache").iterdir()) == []

    def test_jars_that_are_cached_need_no_maven(self, tmp_path: Path) -> None:
        self._tool(tmp_path, "java", """echo 'openjdk version "17.0.2"' >&2""")
        jars = tmp_path / "cache" / f"kafka-{broker_apache.KAFKA_VERSION}"
        jars.mkdir(parents=True)
        for name in ("kafka_2.13", "kafka-server"):
            (jars / f"{name}-{broker_apache.KAFKA_VERSION}.jar").touch()
        assert broker_apache.fetch_jars() == jars


def test_apache_needs_a_sensible_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with 1 node or 3"):
        ApacheBroker(nodes=2, data_dir=tmp_path)


@pytest.mark.apache
def test_apache_keeps_its_data(tmp_path: Path) -> None:
    port = free_port()
    with ApacheBroker(data_dir=tmp_path, port=port) as kafka:
        assert kafka.bootstrap == f"127.0.0.1:{port}"
        _create(kafka.bootstrap, "t")
        _produce(kafka.bootstrap, "t", 50)
        pid = kafka.node(0).pid
    _wait_until_gone(pid)
    with ApacheBroker(data_dir=tmp_path) as kafka:
        assert _read(kafka.bootstrap, "t", 50) == list(range(50))
        assert "Kafka Server started" in kafka.log_path.read_text()
    with pytest.raises(ConfigError, match="cluster of 1 nodes"):
        ApacheBroker(nodes=3, data_dir=tmp_path)


@pytest.mark.apache
@pytest.mark.slow
def test_three_nodes_lose_one_and_go_on(tmp_path: Path) -> None:
    # A killed node is missed after the session timeout, nine seconds by default, and cannot register again before.
    quick = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}
    with ApacheBroker(nodes=3, data_dir=tmp_path, properties=quick) as kafka:
        client = _create(kafka.bootstrap, "t")
        assert len(client.list_topics("t").topics["t"].partitions[0].replicas) == 3
        _produce(kafka.bootstrap, "t", 20)
        leader = client.list_topics("t").topics["t"].partitions[0].leader - 1
        kafka.kill_node(leader)
        assert not kafka.running(leader)
        _produce(kafka.bootstrap, "t", 20)
        kafka.start_node(leader)
        other = (leader + 1) % 3
        kafka.stop_node(other)
        kafka.start_node(other)
        assert _read(kafka.bootstrap, "t", 40) == [*range(20), *range(20)]
