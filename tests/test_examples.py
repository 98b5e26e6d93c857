"""The example consumers work on what a deployment writes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from support import model_worlds as worlds
from support.brokers import HasBootstrap

from streams.kafka.outbox import Outbox
from streams.serving.embeddings import EmbeddingFeed

EXAMPLE = Path(__file__).parent.parent / "examples" / "lookalikes.py"


def test_lookalikes_are_those_that_point_the_same_way(broker: HasBootstrap, make_topics: Callable[..., str]) -> None:
    prefix, feed = make_topics(), EmbeddingFeed(0.02)
    angles = {1: 0.0, 2: 0.1, 3: 2.0, 4: 0.05}
    vectors = np.array([[np.cos(a), np.sin(a)] for a in angles.values()], dtype=np.float32) * np.float32(2**0.5)

    async def publish() -> None:
        outbox = Outbox(broker.bootstrap, prefix=prefix)
        outbox.send_all(feed([worlds.snapshot(customer) for customer in angles], vectors, "model-1"))
        outbox.send_all(feed([worlds.snapshot(5)], vectors[:1], "model-2"))
        outbox.send_all([feed.forget("4")])
        await outbox.delivered(outbox.mark(), 20)
        outbox.close()

    asyncio.run(publish())
    said = subprocess.run(
        [sys.executable, EXAMPLE, "--bootstrap", broker.bootstrap, "--prefix", prefix, "--customer", "1"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [line.split()[1] for line in said.stdout.splitlines()] == ["2", "3"]
