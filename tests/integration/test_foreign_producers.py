"""What other people's producers send: every compression, and header names that are no text."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
from confluent_kafka import Producer

from streams.runtime.app import build_app, serve

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
#: aiokafka's encoder in Python lets a name choose its own bytes; clients in C and Go send whatever they are given.
SENDER = """
import asyncio, sys, aiokafka

class Raw(str):
    def encode(self, *_):
        return b"\\xff\\xfe"

async def main(bootstrap, topic):
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, b"raw", key=b"c", headers=[("a", b"1"), (Raw("x"), b"2")])

asyncio.run(main(*sys.argv[1:]))
"""


class Reader:
    """A role that keeps what it reads."""

    name = "reader"
    topics = ("clickstream",)

    def __init__(self) -> None:
        self.read: dict[bytes, list[tuple[str, bytes | None]]] = {}

    def bind(self, committer: Any) -> None: ...

    async def on_assigned(self, partitions: set[int]) -> None: ...

    async def on_revoked(self, partitions: set[int]) -> None: ...

    async def process(self, batch: Any) -> None:
        self.read |= {record.value: list(record.headers) for record in batch.records}

    async def idle(self) -> None: ...

    async def stop(self) -> None: ...


@pytest.mark.timeout(120)
def test_whatever_they_send_is_read(broker, make_topics):
    prefix = make_topics(partitions=1)
    topic = prefix + "clickstream"
    for codec in CODECS:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": codec, "log_level": 0})
        # Long enough for the client to find compressing worth it.
        producer.produce(topic, codec.encode() * 1_000, b"c", headers=[("codec", codec.encode())])
        assert producer.flush(20) == 0
    subprocess.run(
        [sys.executable, "-c", SENDER, broker.bootstrap, topic],
        env={**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"},
        check=True,
        timeout=60,
    )

    async def main() -> None:
        reader, stop = Reader(), asyncio.Event()
        app = build_app(reader, bootstrap=broker.bootstrap, prefix=prefix, session_timeout_ms=6_000)
        serving = asyncio.create_task(serve(app, stop=stop))
        async with asyncio.timeout(40):
            while len(reader.read) <= len(CODECS):
                assert not serving.done(), "ended too early"
                await asyncio.sleep(0.05)
        stop.set()
        assert await serving == 0
        assert reader.read == {
            **{codec.encode() * 1_000: [("codec", codec.encode())] for codec in CODECS},
            b"raw": [("a", b"1"), ("\\xff\\xfe", b"2")],
        }

    asyncio.run(main())
