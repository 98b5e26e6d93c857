"""The example consumers work on what a deployment writes, and it takes what the example producers send."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from support import model_worlds as worlds
from support.brokers import HasBootstrap
from support.small_model import save_small_model

from models.encoder import default_config
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from schemas.catalog import CatalogEntry
from schemas.codec import decode_event
from schemas.events import CLICKSTREAM, Clickstream
from schemas.predictions import NextBestAction, RankedAction, prediction_record
from schemas.records import OutputRecord
from streams.core.revocations import revocation
from streams.kafka.outbox import Outbox
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.entity_embeddings import EntityFeed

EXAMPLES = Path(__file__).parent.parent / "examples"
NODE = EXAMPLES / "node"
CACHE = EXAMPLES.parent / ".cache"
#: What npm says where there is no network. Anything else, a version that does not exist among it, is our mistake.
NO_ANSWER = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "ENOTFOUND", "ETIMEDOUT")
NOW_MS = 1_500_000_000_000
PARTITIONS = 4


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


def test_a_folder_embeds_what_a_deployment_holds(
    broker: HasBootstrap, make_topics: Callable[..., str], tmp_path: Path
) -> None:
    prefix, folder = make_topics(), save_small_model(tmp_path / "model")
    entries = worlds.catalog()
    everyone = [worlds.snapshot(customer, items=[customer]) for customer in range(4)]

    async def publish() -> None:
        outbox = Outbox(broker.bootstrap, prefix=prefix)
        outbox.send_all(
            OutputRecord("catalog", name.encode(), msgspec.json.encode(entry)) for name, entry in entries.items()
        )
        stale = [worlds.snapshot(customer, items=[9]) for customer in range(4)]
        outbox.send_all(
            OutputRecord("session-snapshots", snapshot.customer_id.encode(), msgspec.msgpack.encode(snapshot))
            for snapshot in (*stale, *everyone)
        )
        outbox.send_all([OutputRecord("session-snapshots", everyone[3].customer_id.encode(), None)])
        await outbox.delivered(outbox.mark(), 20)
        outbox.close()

    asyncio.run(publish())
    said = {
        line["customer_id"]: line for line in map(json.loads, run("embed.py", broker, prefix, "--model", str(folder)))
    }
    predictor = Predictor.load(folder)
    predictor.know(entries)
    expected = predictor.encode(everyone[:3]).embeddings
    assert said.keys() == {snapshot.customer_id for snapshot in everyone[:3]}, "who was erased is not there"
    for snapshot, vector in zip(everyone, expected, strict=False):
        assert said[snapshot.customer_id]["embedding"] == pytest.approx(vector.tolist(), abs=1e-2)
        assert said[snapshot.customer_id]["model_version"] == predictor.version


@pytest.mark.timeout(240)
@pytest.mark.parametrize("producer", ["python", "node"])
def test_what_a_producer_sends_is_an_event_in_its_partition(
    producer: str, broker: HasBootstrap, make_topics: Callable[..., str]
) -> None:
    argv = [sys.executable, str(EXAMPLES / "produce.py")]
    if producer == "node":
        argv = ["node", str(installed() / "produce.mjs")]
    prefix = make_topics(PARTITIONS)
    customers = [f"c{number}" for number in range(4)]
    assert len({partition_for(customer.encode(), PARTITIONS) for customer in customers}) > 1
    before_ms = int(time.time() * 1000)
    offsets: dict[int, int] = {}
    with TopicReader({"bootstrap.servers": broker.bootstrap}) as reader:
        for customer in customers:
            partition = partition_for(customer.encode(), PARTITIONS)
            offset = offsets[partition] = offsets.get(partition, -1) + 1
            said = launch([*argv, "--customer", customer, "--item", "1029743", "--price", "3.99"], broker, prefix)
            assert said == [f"{prefix}clickstream partition {partition} offset {offset}"]
            (message,) = reader.range(prefix + "clickstream", partition, offset, offset + 1)
            event = decode_event(CLICKSTREAM, message.key(), message.value(), (), message.timestamp()[1], 0)
            assert event.customer_id == customer and event.event_id and event.repairs == ()
            assert isinstance(event.body, Clickstream)
            assert (event.body.event, event.body.item_id, event.body.price) == ("purchase", "1029743", 3.99)
            assert event.event_ts_ms >= before_ms


def test_only_decisions_in_force_that_send_are_acted_on(broker: HasBootstrap, make_topics: Callable[..., str]) -> None:
    prefix = make_topics(PARTITIONS)

    def decision(customer: str, as_of_ms: int, campaign: str | None, valid_ms: int = 86_400_000) -> NextBestAction:
        return NextBestAction(
            prediction_id=f"{customer}-{as_of_ms}-{campaign}", question_id="q", customer_id=customer,
            as_of_ms=as_of_ms, model_version="m", valid_until_ms=as_of_ms + valid_ms, source=("clickstream", 0, 1),
            event_ts_ms=as_of_ms, latency_ms=1, propensity=0.5,
            chosen=RankedAction(action="none", value=0.0) if campaign is None
            else RankedAction(action="send", value=1.0, campaign_id=campaign, channel="mail"),
        )  # fmt: skip

    async def publish() -> None:
        outbox = Outbox(broker.bootstrap, prefix=prefix)
        for record in (
            decision("newest", NOW_MS - 9, "old"),
            decision("newest", NOW_MS - 5, "k1"),
            decision("newest", NOW_MS - 7, "late"),
            decision("equal", NOW_MS - 5, "first"),
            decision("equal", NOW_MS - 5, "k2"),
            decision("silent", NOW_MS - 9, "old"),
            decision("silent", NOW_MS - 5, None),
            decision("expired", NOW_MS - 5, "k3", valid_ms=4),
            decision("revoked", NOW_MS - 5, "k4"),
            revocation("revoked", "CONSENT_WITHDRAWN", NOW_MS - 5, ("profiles", 0, 2), NOW_MS - 5),
        ):
            outbox.send_all([prediction_record("predictions.next-best-action", record)])
        await outbox.delivered(outbox.mark(), 20)
        outbox.close()

    asyncio.run(publish())
    found = [json.loads(line) for line in run("decisions.py", broker, prefix, "--now-ms", str(NOW_MS))]
    assert sorted(found, key=lambda line: str(line["customer_id"])) == [
        {
            "customer_id": customer, "campaign_id": campaign, "channel": "mail", "propensity": 0.5, "why": [],
            "decision_id": f"{customer}-{NOW_MS - 5}-{campaign}",
        }
        for customer, campaign in (("equal", "k2"), ("newest", "k1"))
    ]  # fmt: skip


def installed() -> Path:
    """A copy of examples/node beside the packages that it names, fetched once for each content of package.json."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} on the PATH")
    package = NODE / "package.json"
    folder = CACHE / f"examples-node-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            shutil.copy(package, made)
            fetch(Path(made))
            shutil.copytree(made, folder)
    shutil.copy(NODE / "produce.mjs", folder)  # node looks for packages beside the file, wherever it is started
    return folder


def fetch(folder: Path) -> None:
    install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            [*install, "--prefix", str(folder)], capture_output=True, text=True, timeout=90, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm was not answered by its registry within 90 s")
    if done.returncode != 0:
        code = re.search(r"npm (?:error|ERR!) code (\w+)", done.stderr)
        if code is not None and code[1] in NO_ANSWER:
            pytest.skip(f"npm reached no registry: {code[1]}")
        pytest.fail(f"npm install: {done.stderr}")


def run(example: str, broker: HasBootstrap, prefix: str, *asked: str) -> list[str]:
    """What an example in Python prints."""
    return launch([sys.executable, str(EXAMPLES / example), *asked], broker, prefix)


def launch(argv: list[str], broker: HasBootstrap, prefix: str) -> list[str]:
    said = subprocess.run(
        [*argv, "--bootstrap", broker.bootstrap, "--prefix", prefix],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return said.stdout.splitlines()
