"""What is put into the catalog is embedded within seconds, what is taken out is not; a new model says it anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from models import saved_model, tokenizer
from models.tokenizer import Vocabulary
from schemas.catalog import CatalogEntry
from streams.brokers.embedded import EmbeddedBroker
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

PARTITIONS = 2


def test_the_catalog_is_embedded(tmp_path: Path) -> None:
    with EmbeddedBroker() as kafka:
        admin.create_topics(admin.connect({"bootstrap.servers": kafka.bootstrap}), partitions=PARTITIONS)
        producer = OrderedProducer(kafka.bootstrap)

        def put(name: str, title: str | None) -> None:
            kind, _, entity_id = name.partition(":")
            entry = {"kind": kind, "id": entity_id, "title": title, "category": "tea"}
            value = None if title is None else msgspec.json.encode(msgspec.convert(entry, CatalogEntry))
            producer.send("catalog", name.encode(), value, partition_for(name.encode(), PARTITIONS))
            producer.deliver()

        for number in range(20):
            put(f"item:{number}", f"tea number {number}")
        put("item:gone", None)
        pipeline = Pipeline(kafka.bootstrap, "", PARTITIONS, save_small_model(tmp_path / "model"), tmp_path)
        try:
            pipeline.start_worker()
            catalog = {f"item:{number}" for number in range(20)}
            wait(lambda: known(pipeline).keys() >= {*catalog, "category:tea", "item:gone"})
            assert known(pipeline)["item:gone"] is None
            for message in pipeline.read("embeddings.entity"):
                assert message.partition() == partition_for(message.key(), PARTITIONS)
            put("campaign:new", "green tea")
            put("item:3", None)
            put("item:4", "coffee")
            begin_s = time.monotonic()
            wait(lambda: "campaign:new" in known(pipeline) and known(pipeline)["item:3"] is None)
            assert time.monotonic() - begin_s < 30
            wait(lambda: (known(pipeline)["item:4"] or {})["title"] == "coffee")
            once = [message.key() for message in pipeline.read("embeddings.entity")]
            assert once.count(b"item:5") == 1, "what did not move is not repeated"
            pipeline.stop()
            other = save_small_model(tmp_path / "other", Vocabulary(tokenizer.build({"item:5": 2, "evt:purchase": 1})))
            version = saved_model.read_card(other).model_version
            pipeline = Pipeline(kafka.bootstrap, "", PARTITIONS, other, tmp_path)
            pipeline.start_worker()
            left = {*catalog, "campaign:new"} - {"item:3"}
            wait(lambda: {(known(pipeline)[name] or {})["model_version"] for name in left} == {version})
            assert known(pipeline)["item:3"] is None
        finally:
            pipeline.stop()


def known(pipeline: Pipeline) -> dict[str, dict[str, Any] | None]:
    """The newest record of every entity; None for a null."""
    return {
        message.key().decode(): message.value() and json.loads(message.value())
        for message in pipeline.read("embeddings.entity")
    }


def wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.3)
