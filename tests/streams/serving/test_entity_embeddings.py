"""Entities' embeddings: sent when they move, by one worker each, and taken back with the catalog's entry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds

from models.encoder import EncoderSize, default_config
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from models.wide import Floats
from schemas.catalog import CatalogEntry
from schemas.records import OutputRecord
from streams.kafka.partitioning import partition_for
from streams.serving.entity_embeddings import ENTITY_EMBEDDINGS, EntityFeed

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))
ALL = {0, 1, 2, 3}
NOW_MS = 1_500_000_000_000


class Turning:
    """A tower whose vectors point where a test says."""

    version = "model-1"
    named: tuple[str, ...] = ("evt:purchase", "page:/home", "cat:learned", "item:never listed", "coffee", "[SESSION]")

    def __init__(self) -> None:
        self.angles: dict[str, float] = {}

    def know(self, catalog: Mapping[str, CatalogEntry], version: object = None) -> None:
        pass

    def entities(self, words: Sequence[str]) -> Floats:
        angles = np.array([self.angles.get(word, 0.0) for word in words], dtype=np.float32)
        out = np.zeros((len(words), 8), dtype=np.float32)
        out[:, 0], out[:, 1] = np.cos(angles), np.sin(angles)
        return out * np.float32(8**0.5)


class Shop:
    """A catalog that changes, and a worker beside it."""

    def __init__(self, held: set[int] = ALL, margin: float = 0.02) -> None:
        self.tower, self.entries, self.version = Turning(), dict[str, CatalogEntry](), 0
        self.feed = EntityFeed(self.tower, lambda: (self.entries, self.version), margin, len(ALL))
        self.feed.hold(held)

    def put(self, *entries: CatalogEntry, out: Sequence[str] = (), at_ms: int = NOW_MS) -> None:
        names = [entry.key for entry in entries]
        kept = {name: entry for name, entry in self.entries.items() if name not in out}
        self.entries, self.version = kept | dict(zip(names, entries, strict=True)), self.version + 1
        self.feed.tell(dict.fromkeys([*names, *out], at_ms))

    def sent(self) -> dict[str, Any]:
        """By name what is sent now; None for a null."""
        return told(self.drained())

    def drained(self) -> list[OutputRecord]:
        records: list[OutputRecord] = []
        while self.feed.due:
            records += self.feed()
        return records


def told(records: Sequence[OutputRecord]) -> dict[str, Any]:
    assert all(record.topic == ENTITY_EMBEDDINGS and record.partition is None for record in records)
    return {(record.key or b"").decode(): record.value and json.loads(record.value) for record in records}


def item(name: str, title: str | None = None, category: str | None = None) -> CatalogEntry:
    return CatalogEntry(kind="item", id=name, title=title, category=category)


LEARNED = {"page:/home", "category:learned"}


def test_what_is_sent_can_be_read() -> None:
    shop = Shop()
    shop.tower.angles["item:a:b"] = 0.5
    shop.put(item("a:b", "Tea", "hot drinks"))
    found = shop.sent()
    assert found.keys() == {"item:a:b", "category:hot drinks", *LEARNED}
    assert np.allclose(found["item:a:b"].pop("embedding")[:2], np.array([np.cos(0.5), np.sin(0.5)]) * 8**0.5, atol=1e-4)
    assert found["item:a:b"] == {
        "kind": "item", "id": "a:b", "title": "Tea", "as_of_ms": NOW_MS, "model_version": "model-1",
    }  # fmt: skip
    assert (found["page:/home"]["kind"], found["page:/home"]["as_of_ms"]) == ("page", None)
    assert found["category:hot drinks"]["as_of_ms"] is None


def test_only_what_moved_or_is_called_otherwise_is_sent_again() -> None:
    shop = Shop()
    shop.put(item("1", "Tea"), item("2", "Milk"), item("3"))
    shop.sent()
    assert not shop.feed.due
    shop.tower.angles |= {"item:1": 0.1, "item:2": 0.5}
    shop.put(*shop.entries.values())
    assert shop.sent().keys() == {"item:2"}
    shop.put(item("3", "Salt"))
    assert shop.sent().keys() == {"item:3"}


@given(st.lists(st.floats(0.0, 3.1), min_size=1, max_size=20))
def test_readers_are_never_further_off_than_the_margin(angles: list[float]) -> None:
    shop, known = Shop(), None
    for angle in angles:
        shop.tower.angles["item:1"] = angle
        shop.put(item("1"))
        if "item:1" in shop.sent():
            known = angle
        assert known is not None
        assert 1 - np.cos(angle - known) <= 0.02 + 1e-3


def test_what_leaves_the_catalog_is_taken_back() -> None:
    shop = Shop()
    shop.put(item("1", category="tea"), item("2", category="tea"), item("3", category="learned"))
    shop.sent()
    shop.put(out=["item:1"])
    assert shop.sent() == {"item:1": None}
    shop.put(out=["item:1", "item:2", "item:3"])
    assert shop.sent() == {"item:2": None, "item:3": None, "category:tea": None}, "the model knows the other category"
    shop.put(item("1"))
    assert shop.sent()["item:1"]["id"] == "1"


def test_nulls_from_before_the_start_are_passed_on_if_they_are_of_entities() -> None:
    shop = Shop()
    shop.put(out=["item:gone", "what is this", "category:tea", "page:/home", ""])
    assert {name for name, record in shop.sent().items() if record is None} == {"item:gone"}


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), min_size=1, max_size=20),
    st.sets(st.sampled_from(sorted(ALL))),
)
def test_each_entity_has_one_sender(names: list[str], held: set[int]) -> None:
    one, other = Shop(held), Shop(ALL - held)
    for shop in (one, other):
        shop.put(*(item(name, category=name) for name in names))
    of_one, of_other = one.sent(), other.sent()
    assert not of_one.keys() & of_other.keys()
    assert of_one.keys() | of_other.keys() == LEARNED | {f"{kind}:{n}" for kind in ("item", "category") for n in names}
    assert {partition_for(name.encode(), len(ALL)) for name in of_one} <= held


def test_who_takes_over_sends_all_anew_and_what_stays_is_not_repeated() -> None:
    shop = Shop({0, 1})
    shop.put(*(item(str(number)) for number in range(40)), out=["item:gone"])
    first = shop.sent()
    shop.feed.hold({1, 2})
    second = shop.sent()
    assert {partition_for(name.encode(), 4) for name in second} <= {2}
    shop.feed.hold({0, 1})
    assert shop.sent() == {name: said for name, said in first.items() if partition_for(name.encode(), 4) == 0}
    shop.feed.hold(set())
    shop.put(item("new"))
    assert shop.sent() == {}
    shop.feed.hold(ALL)
    assert shop.sent().keys() == {*(f"item:{n}" for n in [*range(40), "new", "gone"]), *LEARNED}


def test_a_large_catalog_is_sent_in_parts() -> None:
    shop = Shop()
    shop.put(*(item(str(number)) for number in range(2_000)))
    parts = []
    while shop.feed.due:
        parts.append(len(shop.feed()))
    assert max(parts) <= 500
    assert sum(parts) == 2_000 + len(LEARNED)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.serving.entity_embeddings.MOST_REMEMBERED", 10)
    shop = Shop()
    shop.put(*(item(str(number)) for number in range(30)))
    assert len(shop.sent()) == 30 + len(LEARNED)
    shop.put(*shop.entries.values())
    assert len(shop.sent()) >= 20, "what there was no room for is sent, moved or not"


def test_repeated_by_another_worker_a_record_is_the_same() -> None:
    def by_a_worker() -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, TASKS)
        predictor = Predictor(model, "test", device="cpu", half=False, compiled=False)
        catalog = worlds.catalog()
        feed = EntityFeed(predictor, lambda: (catalog, 1), 0.02, 4)
        feed.hold(ALL)
        feed.tell(dict.fromkeys(catalog, NOW_MS))
        return {(record.key or b"").decode(): (record.value, record.headers) for record in feed()}

    one, two = by_a_worker(), by_a_worker()
    assert one == two
    assert {"item:0", "campaign:fresh", "offer:offer-fresh", "category:frozen fish"} <= one.keys()


def test_another_model_sends_all_anew_and_takes_out_what_it_does_not_know() -> None:
    shop = Shop(held={0, 1, 2})
    shop.put(CatalogEntry(kind="item", id="1", category="coffee"), CatalogEntry(kind="item", id="2"), out=["item:0"])
    before = shop.sent()
    assert shop.sent() == {}
    other = Turning()
    other.version, other.named = "model-2", ("page:/new", "cat:learned")
    shop.feed.renew(other)
    after = shop.sent()
    mine = {name for name in after if partition_for(name.encode(), len(ALL)) != 3}
    assert after.keys() == mine, "of what it holds"
    assert after.keys() == before.keys() | {name for name in ("page:/new",) if name in after}
    for name, said in after.items():
        known = name in shop.entries or name in ("category:coffee", "category:learned", "page:/new")
        assert (said["model_version"] if said else None) == ("model-2" if known else None), name
    assert shop.sent() == {}
