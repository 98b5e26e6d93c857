"""A broker that is named by its IPv6 address: a worker starts, and every client of ours finds it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline

from schemas.codec import json_encode
from streams.kafka.partitioning import partition_for
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Relay:
    """From a port of ``::1`` to a broker on IPv4, which then tells its own address."""

    def __init__(self, target: str) -> None:
        host, _, port = target.split(",")[0].rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self.address = f"[::1]:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self._target)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, sink):
            one.close()


@pytest.fixture
def relay(broker: Any) -> Iterator[Relay]:
    try:
        relay = Relay(broker.bootstrap)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    yield relay
    relay.close()


def test_a_worker_takes_events_from_a_broker_on_ipv6(relay: Relay, make_topics: Any, tmp_path: Path) -> None:
    prefix = make_topics(partitions=1)
    producer = OrderedProducer(relay.address)
    value = json_encode({"event": "app_open", "event_ts_ms": int(time.time() * 1000)})
    producer.send(prefix + "clickstream", b"c1", value, partition_for(b"c1", 1))
    producer.deliver()
    pipeline = Pipeline(relay.address, prefix, 1, tmp_path / "no-model", tmp_path)
    before = relay.connections
    try:
        pipeline.start_worker(roles="ingest")
        pipeline.await_taken(1)
    finally:
        pipeline.stop()
    assert relay.connections > before
