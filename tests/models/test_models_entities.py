"""Entities: what is known by name, by text or not at all has a vector, the same however it came to be known."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds

from models import saved_model, training
from models.encoder import EncoderSize, InputLayer, default_config
from models.entities import BUCKETS, MOST_TEXT, WordRows, word_of
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize, sequences_of
from models.tasks import TASKS
from models.tokenizer import PAD_ID, UNK_ID, Vocabulary, build
from schemas.catalog import CatalogEntry
from schemas.words import FIXED, hash_of

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))

TEXTS = st.sampled_from(["", "dark roast", "Coffee", "strange thing", "soap, soap & bread", "a b c d e f g h i"])
ENTRIES = st.builds(
    CatalogEntry,
    kind=st.sampled_from(["item", "campaign", "offer", "template", "channel"]),
    id=st.sampled_from(["1", "2", "mail", "new", "newer"]),
    title=st.none() | TEXTS,
    category=st.none() | st.sampled_from([*worlds.CATEGORIES, "unheard of"]),
    attributes=st.none() | st.dictionaries(st.sampled_from("xyz"), TEXTS | st.integers() | st.none(), max_size=3),
)
CATALOGS = st.lists(ENTRIES, max_size=8).map(lambda entries: {entry.key: entry for entry in entries})


def layer() -> InputLayer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return InputLayer(len(worlds.vocabulary()), 16, SMALL.sequence).eval()


def said(word_rows: WordRows, *words: str) -> np.ndarray:
    """The vectors of words, (N, 16)."""
    with torch.no_grad():
        found: np.ndarray = layer().vectors(word_rows, word_rows.rows(b"".join(map(hash_of, words)))).numpy()
    return found


def test_a_word_with_a_row_means_its_row() -> None:
    word_rows, names = WordRows(worlds.vocabulary()), worlds.vocabulary().names[4:]
    assert np.array_equal(said(word_rows, *names), layer().words.weight[4 : 4 + len(names)].detach().numpy())
    assert word_rows.known(word_rows.rows(b"".join(map(hash_of, names)))).all()


def test_strangers_are_not_one_and_the_same() -> None:
    words = [f"item:stranger-{number}" for number in range(200)]
    word_rows = WordRows(worlds.vocabulary())
    found = said(word_rows, *words)
    assert not word_rows.known(word_rows.rows(b"".join(map(hash_of, words)))).any()
    assert len(np.unique(found, axis=0)) > 0.85 * len(words), "some share a bucket"
    assert np.array_equal(found, said(WordRows(worlds.vocabulary()), *words)), "the same at every start"


def test_what_the_catalog_says_is_added_to_the_id() -> None:
    entry = CatalogEntry(
        kind="item", id="1", category="coffee", title="Dark roast", attributes={"origin": "Dark fish", "weight": 5}
    )
    weight = layer().words.weight.detach()
    rows = [worlds.vocabulary().row(word) for word in ("cat:coffee", "dark", "roast", "fish")]
    text = weight[torch.tensor(rows)].sum(0) / 2
    own = weight[torch.tensor(worlds.vocabulary().row("item:1"))]
    assert np.allclose(
        said(WordRows(worlds.vocabulary(), {entry.key: entry}), "item:1")[0], (own + text) / 2, atol=1e-6
    )
    stranger = msgspec.structs.replace(entry, id="stranger")
    bucket = len(worlds.vocabulary()) + int.from_bytes(hash_of("item:stranger"), "little") % BUCKETS
    expected = (weight[UNK_ID] + weight[bucket] + text) / 2
    found = said(WordRows(worlds.vocabulary(), {stranger.key: stranger}), "item:stranger")[0]
    assert np.allclose(found, expected, atol=1e-6)


@given(st.lists(CATALOGS, min_size=1, max_size=4), st.randoms())
def test_no_history_and_no_order_is_seen(catalogs: list[dict[str, CatalogEntry]], random: Random) -> None:
    kept: WordRows | None = None
    for catalog in catalogs:
        kept = WordRows(worlds.vocabulary(), catalog, kept)
    entries = list(catalogs[-1].items())
    random.shuffle(entries)
    fresh = WordRows(worlds.vocabulary(), {name: msgspec.structs.replace(entry) for name, entry in entries})
    for name in ("own", "bucket", "counts", "text", "begin"):
        assert np.array_equal(getattr(kept, name), getattr(fresh, name)), name
    words = b"".join(hash_of(word_of(entry.kind, entry.id)) for entry in catalogs[-1].values())
    assert kept is not None
    assert np.array_equal(kept.rows(words), fresh.rows(words))


@given(CATALOGS)
def test_every_place_is_sound(catalog: dict[str, CatalogEntry]) -> None:
    word_rows = WordRows(worlds.vocabulary(), catalog)
    most = len(worlds.vocabulary()) + BUCKETS
    assert len(word_rows) == most + sum(
        worlds.vocabulary().row(word_of(entry.kind, entry.id)) is None for entry in catalog.values()
    )
    for rows in (word_rows.own, word_rows.bucket, word_rows.text):
        assert ((rows >= 0) & (rows < most)).all()
    assert (word_rows.counts <= MOST_TEXT).all()
    assert word_rows.counts.sum() == len(word_rows.text)
    assert ((word_rows.bucket == PAD_ID) | (word_rows.bucket >= len(worlds.vocabulary()))).all()
    assert (word_rows.bucket[word_rows.own == UNK_ID][1:] != PAD_ID).all(), "but [UNK] itself"
    grammar = [worlds.vocabulary().row(word) for word in FIXED]
    assert (word_rows.bucket[grammar] == PAD_ID).all(), "it is never forgotten"


def test_looked_up_or_summed_one_by_one_or_together_they_are_the_same() -> None:
    inputs, word_rows = layer(), WordRows(worlds.vocabulary(), worlds.catalog())
    table = inputs.freeze(word_rows)
    everything = np.arange(len(word_rows))
    with torch.no_grad():
        singly = torch.cat([inputs.vectors(word_rows, everything[at : at + 1]) for at in range(0, len(word_rows), 7)])
        assert torch.allclose(singly, table[::7], atol=1e-6)
        snapshots = [worlds.snapshot(n, items=[n, worlds.ITEMS + n, 3]) for n in range(5)]
        batch = sequences_of(snapshots, word_rows, SMALL.sequence)
        looked_up = inputs.flat(batch)
        summed = layer().flat(batch)
        assert torch.allclose(looked_up, summed, atol=1e-5)
        one_by_one = torch.cat([inputs.flat(sequences_of([one], word_rows, SMALL.sequence)) for one in snapshots])
        assert torch.allclose(looked_up, one_by_one, atol=1e-5)
        other = WordRows(worlds.vocabulary())
        assert not torch.allclose(inputs.flat(sequences_of(snapshots, other, SMALL.sequence)), looked_up), (
            "a batch is read with the word_rows that it was written with"
        )


def test_a_snapshot_costs_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predicting()
    predictor.know(worlds.catalog(), 1)

    def refuse(*_: object) -> None:
        raise AssertionError("vectors are looked up")

    monkeypatch.setattr(InputLayer, "vectors", refuse)
    predictor.know(worlds.catalog(), 1)
    strange = worlds.snapshot(items=[1, worlds.ITEMS, worlds.ITEMS + 1])
    assert np.isfinite(predictor.encode([strange]).embeddings).all()
    assert len(predictor.redemption.campaigns(worlds.catalog(), ["0", "fresh"], 1)) == 2


def predicting() -> Predictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, TASKS)
    return Predictor(model, "test", device="cpu", half=False, compiled=False)


def test_a_large_catalog_is_ready_at_once() -> None:
    vocabulary = Vocabulary(build({f"item:{number}": 1 for number in range(8_000)}, max_words=10_000))
    catalog = {
        f"item:{number}": CatalogEntry(
            kind="item", id=str(number), title=f"brand {number % 300} thing {number % 7000} of colour {number % 12}",
            category=f"shelf {number % 200}", attributes={"maker": f"maker {number % 90}"},
        )
        for number in range(20_000)
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        inputs = InputLayer(len(vocabulary), 64, SMALL.sequence).eval()
    begin_s = time.process_time()
    word_rows = WordRows(vocabulary, catalog)
    inputs.freeze(word_rows)
    assert time.process_time() - begin_s < 2.0
    changed = catalog | {"item:5": msgspec.structs.replace(catalog["item:5"], title="another")}
    begin_s = time.process_time()
    inputs.freeze(WordRows(vocabulary, changed, word_rows))
    assert time.process_time() - begin_s < 0.6, "one entry is read, the others are known"


def test_strangers_are_learned_from() -> None:
    inputs, word_rows = layer().train(), WordRows(worlds.vocabulary(), worlds.catalog())
    batch = sequences_of([worlds.snapshot(n, items=list(range(40))) for n in range(4)], word_rows, SMALL.sequence)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs.flat(batch).square().sum().backward()
    gradient = inputs.words.weight.grad
    assert gradient is not None
    moved = gradient.abs().sum(1) > 0
    assert moved[UNK_ID]
    assert moved[len(worlds.vocabulary()) :].any()
    assert moved[worlds.vocabulary().row("coffee")], "by the titles of items"
    assert not moved[PAD_ID]


@pytest.mark.slow
def test_a_stranger_is_where_items_of_its_title_are(tmp_path: Path) -> None:
    """After a little training, in which nobody has met it."""
    ticks = count()
    model = training.train(
        worlds.outcomes(600), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1, size=msgspec.structs.replace(SMALL, hidden=EncoderSize().hidden)),
    )  # fmt: skip
    saved_model.save(model, tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model", half=False)
    new = [CatalogEntry(kind="item", id=f"new-{name}", title=name, category=name) for name in worlds.CATEGORIES]
    predictor.know(worlds.catalog() | {entry.key: entry for entry in new})
    strangers = predictor.entities([word_of("item", entry.id) for entry in new])
    known = predictor.entities([word_of("item", str(number)) for number in range(worlds.ITEMS)])
    assert np.allclose(np.square(known).mean(1), 1.0, atol=1e-4)
    cosine = strangers @ known.T / known.shape[1]
    for at in range(len(new)):
        alike = np.arange(worlds.ITEMS) % 4 == at
        assert cosine[at, alike].mean() > cosine[at, ~alike].mean() + 0.2
        assert (cosine[at, alike][:, None] > cosine[at, ~alike]).mean() > 0.9, "than a random item"
    before = Predictor(model, "x", half=False)
    before.know(worlds.catalog() | {entry.key: entry for entry in new})
    assert np.array_equal(before.entities(["item:new-soap"]), predictor.entities(["item:new-soap"]))
