"""The example consumers work on what a deployment writes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from support import model_worlds as worlds
from support.brokers import HasBootstrap

from models.encoder import default_config
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from schemas.catalog import CatalogEntry
from streams.kafka.outbox import Outbox
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.entity_embeddings import EntityFeed

EXAMPLES = Path(__file__).parent.parent / "examples"


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
    said = run("lookalikes.py", broker, prefix, "--customer", "1")
    assert [line.split()[1] for line in said] == ["2", "3"]


def test_items_are_similar_by_title_whoever_sells_them(broker: HasBootstrap, make_topics: Callable[..., str]) -> None:
    prefix = make_topics()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(default_config(), worlds.vocabulary(), SequenceSize(), TASKS)
    predictor = Predictor(model, "model-1", device="cpu", half=False, compiled=False)
    new = [CatalogEntry(kind="item", id=name, title="frozen fish", category="frozen fish") for name in ("new", "newer")]
    catalog = worlds.catalog() | {entry.key: entry for entry in new}
    current: tuple[dict[str, CatalogEntry], int] = catalog, 1

    async def publish() -> None:
        nonlocal current
        outbox = Outbox(broker.bootstrap, prefix=prefix)
        feed = EntityFeed(predictor, lambda: current, 0.02, 4)
        feed.hold({0, 1, 2, 3})
        feed.tell(dict.fromkeys(catalog, 1_500_000_000_000))
        outbox.send_all(feed())
        current = {name: entry for name, entry in catalog.items() if name not in ("item:newer", "item:5")}, 2
        feed.tell({"item:newer": 1_500_000_000_001, "item:5": 1_500_000_000_001})
        outbox.send_all(feed())
        await outbox.delivered(outbox.mark(), 20)
        outbox.close()

    asyncio.run(publish())
    said = [line.split(maxsplit=2) for line in run("similar_items.py", broker, prefix, "--entity", "item:new")]
    assert len(said) == 10
    alike = {f"item:{number}" for number in range(1, worlds.ITEMS, 4) if number != 5}
    assert {name for _, name, _ in said[:9]} == alike
    assert {title for _, _, title in said[:9]} == {"frozen fish"}


def run(example: str, broker: HasBootstrap, prefix: str, *asked: str) -> list[str]:
    """What an example prints."""
    said = subprocess.run(
        [sys.executable, EXAMPLES / example, "--bootstrap", broker.bootstrap, "--prefix", prefix, *asked],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return said.stdout.splitlines()
