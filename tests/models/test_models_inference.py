from __future__ import annotations

import copy
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.examples import examples
from support.snapshots import edge_block, hashes, recent

from models import candidates, training
from models.candidates import CROSS_NAMES, Candidates
from models.customer_task import CustomerAnswers
from models.encoder import EncoderSize
from models.entities import WordRows
from models.heads import CustomerHead, Head
from models.inference import Predictor
from models.model import Model
from models.reasons import customer_reasons
from models.sequence import AMOUNTS, Sequences, SequenceSize
from models.wide import PLAIN, by_feature
from schemas import features
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError, InvalidField
from schemas.graph import EDGE_TYPES
from schemas.snapshot import Candidate, EdgeBlock, Recent

SMALL = EncoderSize(
    hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=12, graph=24)
)


def trained() -> Model:
    ticks = itertools.count()
    settings = training.TrainSettings(epochs=1, size=SMALL)
    return training.train(
        worlds.outcomes(600), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)), settings=settings
    )


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = trained()
    # Gates wide open, so that the tests see the deep parts too.
    for head in model.heads.values():
        if isinstance(head, Head):
            head.gate.fill_(1.0)
    churn = model.heads["churn"]
    assert isinstance(churn, CustomerHead)
    last = churn.deep
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.3)
    return Predictor(model, "test", half=False)


def of_churn(predictor: Predictor, snapshots: list) -> CustomerAnswers:
    return predictor.churn(predictor.encode(snapshots))


def crowd(count: int = 24) -> list:
    random = np.random.default_rng(5)
    return [
        worlds.snapshot(i, items=[int(x) for x in random.integers(0, worlds.ITEMS, i % 12)], days_since=float(i % 20))
        for i in range(count)
    ]


@settings(deadline=None, max_examples=examples(20))
@given(st.permutations(range(24)), st.integers(1, 24))
def test_a_result_does_not_depend_on_the_batch(predictor: Predictor, order: list[int], size: int) -> None:
    everyone = crowd()
    together = predictor.encode(everyone)
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        found = predictor.encode([everyone[i] for i in rows])
        churn = predictor.churn(found).probability - predictor.churn(together).probability[rows]
        assert np.abs(churn).max() < 1e-3
        assert np.abs(found.embeddings - together.embeddings[rows]).max() < 1e-3


def test_contributions_and_base_sum_to_the_wide_logit(predictor: Predictor) -> None:
    found = predictor.encode(crowd())
    head = predictor.model.heads["churn"]
    assert isinstance(head, CustomerHead)
    answers = predictor.churn(found)
    with torch.inference_mode():
        deep = head.deep(torch.from_numpy(found.embeddings)).squeeze(-1) * head.gate * head.scale
    assert np.allclose(answers.contributions.sum(1) + predictor.churn.base + deep.numpy(), answers.logits, atol=1e-4)


def test_nobody_is_a_batch_too(predictor: Predictor) -> None:
    found = predictor.encode([])
    assert len(found) == 0
    campaigns = predictor.redemption.campaigns(worlds.catalog(), ["0"])
    assert predictor.redemption(found, campaigns).probability.shape == (0, 1)
    someone = crowd(2)
    none = predictor.redemption(predictor.encode(someone), predictor.redemption.campaigns(worlds.catalog(), []))
    assert none.probability.shape == (2, 0)


def _hash(item: int) -> int:
    return int.from_bytes(hashes(f"item:{item}"), "little")


def test_unknown_words_are_scored_and_counted(predictor: Predictor) -> None:
    # Edges of one weight go by their hash: of the strange items, two on one side of the item beside them.
    strange, alike = [item for item in range(worlds.ITEMS, worlds.ITEMS + 80, 4) if _hash(item) > _hash(2)][:2]
    known, one, other = (worlds.snapshot(items=items) for items in ([1, 2], [strange, 2], [alike, 2]))
    nobody = worlds.snapshot(items=[])
    found = predictor.encode([known, one, nobody, other])
    assert (found.words, found.unknown_words) == (3 * worlds.shown([1, 2]), 6), "of an event, of a session, of an edge"
    apart = [float(np.square(found.embeddings[1] - found.embeddings[at]).mean()) for at in (0, 3)]
    assert 1e-4 < apart[1] < apart[0], "one unknown word is more like another than like a known one, and not the same"
    assert not np.allclose(found.embeddings[0], found.embeddings[1], atol=1e-3)
    assert not np.allclose(found.embeddings[2], found.embeddings[1], atol=1e-3), "what is known beside it counts"
    alone = predictor.encode([one])
    assert (alone.words, alone.unknown_words) == (worlds.shown([1, 2]), 3)
    assert np.allclose(alone.embeddings[0], found.embeddings[1], atol=1e-5)


def test_words_that_the_encoder_does_not_see_are_not_counted(predictor: Predictor) -> None:
    seen = predictor.model.encoder.size.recent
    old, new, events = worlds.ITEMS, 1, 2 * predictor.model.encoder.size.recent
    told = worlds.snapshot(items=[new] * events)
    older = msgspec.structs.replace(told, recent=worlds.timeline([old] + [new] * (events - 1)))
    found = predictor.encode([older, told])
    assert found.unknown_words == 0
    assert found.words == 2 * (seen * len(worlds.sold(0)) + 2 * predictor.model.encoder.size.history + 2)
    assert np.allclose(found.embeddings[0], found.embeddings[1], atol=1e-5)
    late = msgspec.structs.replace(told, recent=worlds.timeline([new] * (events - 1) + [old]))
    assert (predictor.encode([late]).words, predictor.encode([late]).unknown_words) == (found.words // 2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"features": b"\0" * 8},
        {"recent": Recent(words=b"\0")},
        {"history": b"\0"},
        {"edges": (EdgeBlock(0, {0: b"\0"}),)},
        {"edge_half_life_ms": 0},
    ],
    ids=str,
)
def test_damaged_snapshots_are_named(predictor: Predictor, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        predictor.encode([msgspec.structs.replace(worlds.snapshot(), **change)])


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=70))
def test_any_hashes_are_words(predictor: Predictor, said: list[bytes]) -> None:
    told = recent((worlds.START_MS, word) for word in said)
    found = predictor.encode([msgspec.structs.replace(worlds.snapshot(), recent=told)])
    assert np.isfinite(predictor.churn(found).probability).all()
    seen = min(len(said), predictor.model.encoder.size.recent)
    assert found.words == worlds.shown([0, 4, 1]) - 3 * len(worlds.sold(0)) + seen >= found.unknown_words


#: Weights that are infinite or no numbers among them, of entities that the campaigns name.
wild_edges = st.lists(
    st.tuples(
        st.sampled_from(["item:0", "item:4", "camp:0", "chan:mail", "offer:offer-0", "x"]), st.binary(min_size=4)
    ),
    max_size=6,
).map(lambda found: b"".join(hashes(name) + more[:4] for name, more in found))
wild_blocks = st.builds(
    EdgeBlock,
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(st.integers(0, len(EDGE_TYPES)), wild_edges, max_size=4),
)


@given(st.lists(wild_blocks, max_size=3), st.integers(1, 2**63 - 1))
def test_any_edges_give_a_probability(predictor: Predictor, blocks: list[EdgeBlock], half_life_ms: int) -> None:
    wild = msgspec.structs.replace(worlds.snapshot(), edges=tuple(blocks), edge_half_life_ms=half_life_ms)
    campaigns = predictor.redemption.campaigns(worlds.catalog(), ["0", "fresh"])
    with np.errstate(all="ignore"):
        found = predictor.redemption(predictor.encode([wild]), campaigns)
        assert np.isfinite(found.probability).all()
        assert all(reason.text for reason in predictor.redemption.reasons(wild, found, 0, 0, top=12))


def test_an_unknown_device_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="device"):
        Predictor(predictor.model, "x", device="no-such-device")


def test_bfloat16_is_near(predictor: Predictor) -> None:
    everyone = crowd()
    half = Predictor(copy.deepcopy(predictor.model), "half", half=True)
    assert half.dtype == torch.bfloat16
    assert np.abs(of_churn(half, everyone).probability - of_churn(predictor, everyone).probability).max() < 0.02


def test_a_campaign_made_a_minute_ago_is_scored_by_what_it_offers(predictor: Predictor) -> None:
    catalog = worlds.catalog()
    drinker, bather = worlds.snapshot(1, items=[0, 4, 8, 12, 16]), worlds.snapshot(2, items=[2, 6, 10, 14, 18])
    campaigns = predictor.redemption.campaigns(catalog, ["fresh", "2"])
    pair = [drinker, bather]
    found = predictor.redemption(predictor.encode(pair), campaigns)
    assert found.probability.shape == (2, 2)
    assert found.probability[0, 0] > found.probability[1, 0] + 0.1, "coffee is for the coffee drinker"
    assert found.probability[1, 1] > found.probability[0, 1] + 0.1, "soap is for the other"
    assert found.cross.shape == (2, 2, len(CROSS_NAMES))
    assert found.customer.shape == (2, features.SIZE)
    reasons = predictor.redemption.reasons(drinker, found, 0, 0)
    assert any(reason.code in {"ITEMS_YES", "CATEGORIES_YES"} and reason.weight > 0 for reason in reasons)


def test_scores_of_a_pair_do_not_depend_on_the_other_campaigns(predictor: Predictor) -> None:
    everyone, catalog = crowd(), worlds.catalog()
    encoded = predictor.encode(everyone)
    all_of_them = predictor.redemption(encoded, predictor.redemption.campaigns(catalog, ["0", "1", "2", "fresh"]))
    one = predictor.redemption(encoded, predictor.redemption.campaigns(catalog, ["fresh"]))
    assert np.allclose(all_of_them.probability[:, 3], one.probability[:, 0], atol=1e-5)


def test_candidates_are_kept_per_catalog_version(predictor: Predictor) -> None:
    catalog = worlds.catalog()
    first = predictor.redemption.campaigns(catalog, ["0", "1"], version=7)
    assert predictor.redemption.campaigns(catalog, ["0", "1"], version=7) is first
    assert predictor.redemption.campaigns(catalog, ["0", "1"], version=8) is not first
    assert predictor.redemption.campaigns(catalog, ["0"], version=7).ids == ("0",)
    with pytest.raises(KeyError):
        predictor.redemption.campaigns(catalog, ["nowhere"])


def test_reasons_tell_the_numbers(predictor: Predictor) -> None:
    late = worlds.snapshot(days_since=23.0, gap=6.0)
    found = predictor.encode([late])
    reasons = customer_reasons(late, predictor.churn(found).contributions[0], predictor.churn.typical)
    assert 1 <= len(reasons) <= 3
    recency = next(reason for reason in reasons if reason.code == "RECENCY_HIGH")
    assert recency.text == "no purchase for 23 days, usually every 6"
    assert recency.weight > 0
    assert [abs(r.weight) for r in reasons] == sorted((abs(r.weight) for r in reasons), reverse=True)


@given(st.binary(min_size=4 * features.SIZE, max_size=4 * features.SIZE))
def test_reasons_of_any_bytes_are_sentences(predictor: Predictor, raw: bytes) -> None:
    wild = msgspec.structs.replace(worlds.snapshot(), features=raw)
    with np.errstate(all="ignore"):
        found = predictor.encode([wild])
        answers, typical = predictor.churn(found), predictor.churn.typical
        assert np.isfinite(answers.probability).all()
        assert all(reason.text for reason in customer_reasons(wild, answers.contributions[0], typical, top=12))


def test_cross_features_match_a_plain_count() -> None:
    catalog = worlds.catalog()
    campaigns = [catalog["campaign:0"], catalog["campaign:fresh"], catalog["campaign:1"]]
    made = Candidates(campaigns, catalog, WordRows(worlds.vocabulary(), catalog))
    someone = worlds.snapshot(items=[0, 0, 4, 1])
    more = edge_block(
        worlds.START_MS,
        {
            "received>campaign": {"fresh": 1.0, "0": 2.0},
            "redeemed>campaign": {"0": 0.5},
            "redeemed>offer": {"offer-1": 3.0},
            "received>channel": {"mail": 1.0, "push": 3.0},
        },
    )
    found = made.cross([msgspec.structs.replace(someone, edges=(*someone.edges, more)), worlds.snapshot(items=[])])
    assert found.shape == (2, 3, len(CROSS_NAMES))

    def value(name: str, column: int, row: int = 0) -> float:
        return float(found[row, column, CROSS_NAMES.index(name)])

    assert value("bought_items", 0) == pytest.approx(np.log1p(3))
    assert value("bought_items_distinct", 0) == pytest.approx(np.log1p(2))
    assert value("bought_items_share", 0) == pytest.approx(0.75)
    assert value("bought_items", 2) == pytest.approx(np.log1p(1))
    assert value("received_alike", 0) == pytest.approx(np.log1p(1)), "its own send does not count"
    assert value("redeemed_alike", 1) == pytest.approx(np.log1p(0.5))
    assert value("redeemed_offers", 2) == pytest.approx(np.log1p(3))
    assert value("channel_share", 0) == pytest.approx(0.25)
    assert value("bought_items", 0, row=1) == 0


def test_cross_features_decay_and_take_the_newest_edges() -> None:
    catalog = worlds.catalog()
    made = Candidates([catalog["campaign:0"]], catalog, WordRows(worlds.vocabulary(), catalog))
    someone = worlds.snapshot(items=[])
    month_ms = someone.edge_half_life_ms
    older = edge_block(worlds.START_MS - 2 * month_ms, {"purchase>item": {"0": 8.0, "4": 4.0}})
    newer = edge_block(worlds.START_MS - month_ms, {"purchase>item": {"0": 6.0}})
    (((found, *_),),) = made.cross([msgspec.structs.replace(someone, edges=(older, newer))])
    assert found == pytest.approx(np.log1p(3.0 + 1.0))


def test_entities_of_other_kinds_with_equal_names_are_not_mixed_up() -> None:
    catalog = worlds.catalog()
    made = Candidates([catalog["campaign:0"]], catalog, WordRows(worlds.vocabulary(), catalog))
    named_alike = edge_block(
        worlds.START_MS, {"purchase>category": {"0": 1.0}, "redeemed>offer": {"0": 1.0}, "received>channel": {"0": 1.0}}
    )
    alike = msgspec.structs.replace(worlds.snapshot(items=[]), edges=(named_alike,))
    bare = worlds.snapshot(items=[])
    assert np.array_equal(made.cross([alike]), made.cross([bare]), equal_nan=True)


def test_a_campaign_that_the_catalog_lacks_is_made_from_the_send() -> None:
    entry = candidates.named(Candidate("gone", "offer-1", "t1", "push"), worlds.catalog())
    assert (entry.id, entry.template_id, entry.channel, entry.offers) == ("gone", "t1", "push", ["offer-1"])
    made = Candidates(
        [entry, CatalogEntry(kind="campaign", id="bare")], worlds.catalog(), WordRows(worlds.vocabulary())
    )
    assert np.isnan(made.cross([worlds.snapshot()])[0, 1]).sum() == 2, "window and price are not known"


def of_lengths(lengths: list[int]) -> Sequences:
    """Customers of whom nothing is known but how long they are."""
    total = sum(lengths)
    nothing = np.zeros(total, dtype=np.float32)
    return Sequences(
        numbers=np.zeros((len(lengths), 1), dtype=np.float32),
        lengths=np.array(lengths, dtype=np.int64),
        kind=np.zeros(total, dtype=np.uint8),
        rank=np.zeros(total, dtype=np.uint8),
        age_days=nothing,
        gap_days=nothing,
        hour=nothing,
        year=nothing,
        amounts=np.zeros((total, len(AMOUNTS)), dtype=np.float32),
        counts=np.zeros(total, dtype=np.int64),
        words=np.zeros(0, dtype=np.uint16),
        weights=np.zeros(0, dtype=np.float32),
    )


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(64, 2000))
def test_groups_hold_every_row_once_within_the_bound(lengths: list[int], most: int) -> None:
    groups = [rows.tolist() for rows in of_lengths(lengths).batches(most)]
    assert sorted(i for rows in groups for i in rows) == list(range(len(lengths)))
    for rows in groups:
        longest = max(lengths[i] for i in rows)
        assert len(rows) * longest <= max(most, longest)


def test_padding_is_small_in_a_large_batch() -> None:
    sequences = of_lengths(np.random.default_rng(0).integers(4, 127, 2000).tolist())
    cells = sum(len(rows) * int(sequences.lengths[rows].max()) for rows in sequences.batches(8192))
    assert cells / sequences.lengths.sum() < 1.06


def test_by_feature_takes_plain_columns_too() -> None:
    assert by_feature(np.ones((2, PLAIN), dtype=np.float32)).shape == (2, features.SIZE)
