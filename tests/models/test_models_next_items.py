"""Rankings of items: what is listed, what is known of it, and that nothing else reaches a list."""

from __future__ import annotations

import functools
import itertools

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.sequences import snapshots as arbitrary

from models import saved_model, training
from models.assortment import NONE, Assortment
from models.encoder import EncoderSize
from models.entities import WordRows
from models.inference import Predictor
from models.item_columns import OWN_NAMES, ItemEdges, even_weight, intervals
from models.item_lists import COLUMN, COLUMN_NAMES, Lists, ReadyItems
from models.item_ranking import ItemsHead, best_of, mark, ranking
from models.item_reasons import family_shares, item_reasons
from models.item_sales import LATELY_WEEKS, sales_of
from models.model import Model
from models.sequence import SequenceSize
from models.task import Moment
from models.tasks import TASKS
from models.tasks.next_items import NextItemsTask
from schemas.catalog import CatalogEntry
from schemas.predictions import NextItemsPrediction, Reason
from schemas.snapshot import DAY_MS, Snapshot

SMALL = EncoderSize(hidden=16, layers=1, heads=2, intermediate=16, sequence=SequenceSize(recent=8, history=4, graph=6))
CATALOG = worlds.catalog()
WORDS = WordRows(worlds.vocabulary(), CATALOG)
ASSORTMENT = Assortment(CATALOG, WORDS)
FEW = settings(max_examples=25, deadline=None)


@functools.cache
def head() -> ItemsHead:
    torch.manual_seed(1)
    made = ItemsHead(SMALL.hidden).eval()
    random = np.random.default_rng(0)
    orders = [random.choice(len(ASSORTMENT), 3, replace=False) for _ in range(50)]
    made.popularity.load(ASSORTMENT, sales_of(np.arange(50) * DAY_MS, orders, len(ASSORTMENT)))
    return made


@functools.cache
def table() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(len(WORDS), SMALL.hidden)).astype(np.float32))


def ready(assortment: Assortment = ASSORTMENT) -> ReadyItems:
    return ReadyItems(assortment, table(), head().tower, head().popularity)


def embeddings(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(2).normal(size=(1, SMALL.hidden)).astype(np.float32).repeat(count, axis=0)


@given(
    st.integers(2, 200), st.floats(0.1, 300), st.floats(0, 400), st.sampled_from([7.0, 28.0, 84.0]),
    st.sampled_from([7.0, 84.0, 224.0]),
)  # fmt: skip
def test_even_purchases_are_recognised(count: int, days: float, age: float, half_life: float, other: float) -> None:
    def weight(of: float) -> float:
        return float(np.sum(np.exp2(-(age + days * np.arange(count)) / of)))

    arrays = [np.array([value]) for value in (float(count), weight(half_life), age, half_life)]
    found = intervals(*arrays)
    seen = np.exp2(-days / half_life)
    if seen > 1e-6 and (1 - seen**count) / (1 - seen) < 0.999 * count:  # else the weight does not tell intervals apart
        assert found[0] == pytest.approx(days, rel=0.02)
    exact = even_weight(np.array([float(count)]), np.array([age]), np.array([days]), other)
    assert exact[0] == pytest.approx(weight(other), rel=1e-4, abs=1e-9)


@FEW
@given(st.lists(arbitrary, max_size=4), st.booleans())
def test_a_list_names_what_is_offered_once_and_what_is_known_of_it(found: list[Snapshot], asked: bool) -> None:
    lists = ready().lists(found, embeddings(len(found)) if asked else None)
    keys = lists.customer * len(ASSORTMENT) + lists.item
    assert np.array_equal(keys, np.unique(keys))
    assert lists.columns.shape == (len(keys), len(COLUMN_NAMES)) and not np.isinf(lists.columns).any()
    assert np.isfinite(lists.columns[:, [COLUMN["taste"], COLUMN["match"]]]).all() == (asked or not len(keys))
    edges = ItemEdges(found, ASSORTMENT)
    assert set(edges.known().tolist()) <= set(keys.tolist())
    assert np.array_equal(lists.again, np.isin(keys, edges.bought.keys))


@FEW
@given(st.lists(arbitrary, min_size=1, max_size=4))
def test_a_list_does_not_depend_on_the_others_of_its_batch(found: list[Snapshot]) -> None:
    together, said = ready().lists(found, embeddings(len(found))), embeddings(1)
    for row, snapshot in enumerate(found):
        alone = ready().lists([snapshot], said)
        own = together.customer == row
        both = np.isin(together.item[own], alone.item)
        assert both.mean() > 0.9  # the last items that the tower finds may be as good as the next
        places = np.searchsorted(alone.item, together.item[own][both])
        assert alone.columns[places] == pytest.approx(together.columns[own][both], abs=1e-3, nan_ok=True)


@FEW
@given(st.lists(arbitrary, min_size=1, max_size=3), st.sets(st.integers(0, worlds.ITEMS - 1)), st.integers(0, 2))
def test_what_is_not_offered_is_not_listed(found: list[Snapshot], gone: set[int], how: int) -> None:
    as_of_ms = found[0].as_of_ms
    window = [{"active_to_ms": as_of_ms}, {"active_from_ms": as_of_ms + 1}][min(how, 1)]
    entries = dict(CATALOG)
    for number in gone:
        name = f"item:{number}"
        if how == 2:
            del entries[name]
        else:
            entries[name] = msgspec.structs.replace(entries[name], **window)
    assortment = Assortment(entries, WORDS)
    lists = ready(assortment).lists(found, embeddings(len(found)))
    named = {assortment.entries[item].id for item in lists.item.tolist()}
    assert named.isdisjoint({str(number) for number in gone})


def test_an_empty_catalog_lists_nothing() -> None:
    empty = Assortment({}, WORDS)
    assert len(ready(empty).lists([worlds.snapshot()], embeddings(1))) == 0
    assert empty.items(("1",)).tolist() == []


def test_items_are_found_by_hash_and_by_id() -> None:
    assert {ASSORTMENT.entries[at].id for at in ASSORTMENT.items(("3", "nobody", "7", "3")).tolist()} == {"3", "7"}
    assert ASSORTMENT.places(np.array([1, 2], dtype=np.uint32)).tolist() == [NONE, NONE]


@given(st.integers(0, 2**16))
def test_a_ranking_is_measured_as_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    orders, listed, customers, scores = [], [], [], []
    for customer in range(5):
        items = random.choice(30, random.integers(0, 25), replace=False)
        orders.append(np.sort(random.choice(30, random.integers(0, 6), replace=False)))
        listed.append(np.sort(items))
        customers.append(np.full(len(items), customer))
        scores.append(random.normal(size=len(items)))
    columns = np.zeros((sum(map(len, listed)), len(COLUMN_NAMES)), dtype=np.float32)
    lists = Lists(5, np.concatenate(customers), np.concatenate(listed), columns)
    wanted = np.array([len(order) for order in orders])
    found = ranking(np.concatenate(scores), mark(lists, orders, wanted, np.arange(5), 30), best=4)
    recall, ndcg = [], []
    for items, order, score in zip(listed, orders, scores, strict=True):
        if len(order):
            hits = np.isin(items[np.argsort(-score)][:4], order)
            gains = 1 / np.log2(np.arange(2, 6))
            recall.append(hits.sum() / len(order))
            ndcg.append(hits @ gains[: len(hits)] / gains[: min(4, len(order))].sum())
    assert found.lists == len(recall)
    if recall:
        assert (found.recall, found.ndcg) == pytest.approx((np.mean(recall), np.mean(ndcg)), abs=1e-4)
    top = best_of(np.concatenate(scores), lists.customer, 5, 3)
    for customer, score in enumerate(scores):
        assert np.concatenate(scores)[top][lists.customer[top] == customer].tolist() == sorted(score)[::-1][:3]


@pytest.fixture(scope="module")
def model() -> Model:
    ticks = itertools.count()
    return training.train(
        worlds.with_orders(worlds.outcomes(700)), CATALOG, worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1, size=SMALL), tasks=[NextItemsTask()],
    )  # fmt: skip


def records(
    model: Model, found: list[Snapshot], catalog: dict[str, CatalogEntry] = CATALOG
) -> list[NextItemsPrediction]:
    predictor = Predictor(model, "test", half=False)
    predictor.know(catalog)
    said = predictor.scorers["next-items"].predictions(predictor.encode(found), Moment(catalog, 1, 0))
    return [record for record in said if isinstance(record, NextItemsPrediction)]


def test_a_record_says_what_a_stranger_needs(model: Model) -> None:
    made = worlds.snapshot(kind="horizon", items=[0, 4, 0, 4, 0, 8])
    (record,) = records(model, [made])
    assert len(record.items) == 10 and record.valid_until_ms == made.as_of_ms + 7 * DAY_MS
    assert [item.probability for item in record.items] == sorted((i.probability for i in record.items), reverse=True)
    by_id = {item.item_id: item for item in record.items}
    assert {name for name, item in by_id.items() if item.kind == "again"} == {"0", "4", "8"}
    assert by_id["0"].title == "coffee"
    assert {reason.code for reason in by_id["0"].reason_codes} & {"OFTEN", "DUE"}
    assert all(reason.text and reason.code for item in record.items for reason in item.reason_codes)
    named = sum(CATALOG[f"item:{item.item_id}"].category == "coffee" for item in record.items)
    assert named > 6, "the world's customers stay with one category"


def test_an_item_of_this_minute_can_be_ranked(model: Model) -> None:
    """Nobody has bought it, no word of it was counted; its title and category speak for it."""
    fresh = CatalogEntry(kind="item", id="fresh", category="coffee", title="coffee", price=1.0)
    few = {name: entry for name, entry in CATALOG.items() if entry.kind != "item" or int(entry.id) < 9}
    (record,) = records(model, [worlds.snapshot(kind="horizon", items=[0, 4])], few | {fresh.key: fresh})
    items = [item.item_id for item in record.items]
    assert "fresh" in items and items.index("fresh") < items.index("1"), "soap and bread are further away"


def test_it_is_learned_and_says_how_well(model: Model) -> None:
    report = model.report.heads["next-items"]
    assert report.ranking is not None and report.ranking.lists > 20
    chance = 10 / worlds.ITEMS
    assert report.ranking.recall > 2 * chance


@given(st.lists(st.tuples(st.integers(0, 60), st.sets(st.integers(0, 4), max_size=3)), min_size=1, max_size=20))
def test_a_row_is_told_what_had_sold_before_its_week_and_nothing_after(found: list[tuple[int, set[int]]]) -> None:
    at_ms = np.array([worlds.START_MS + day * DAY_MS for day, _ in found])
    sales = sales_of(at_ms, [np.array(sorted(items), dtype=np.int64) for _, items in found], 5)
    first = min(day for day, _ in found)
    for day in range(first, 75):
        week = int(sales.week(np.array([worlds.START_MS + day * DAY_MS]))[0])
        begin = first + 7 * week
        assert begin <= day or week == 0
        before = [(at, items) for at, items in found if at < begin]
        assert sales.orders[week, 0] == len(before)
        lately = [2 ** -(((begin - first) // 7 - 1 - (at - first) // 7) / LATELY_WEEKS) for at, _ in before]
        assert sales.orders[week, 1] == pytest.approx(sum(lately))
        for item in range(5):
            assert sales.counts[week, item] == sum(item in items for _, items in before)
            weights = [one for one, (_, items) in zip(lately, before, strict=True) if item in items]
            assert sales.lately[week, item] == pytest.approx(sum(weights), rel=1e-4)


def test_what_the_tower_says_counts_for_nothing_before_it_is_learned() -> None:
    torch.manual_seed(0)
    head, columns = ItemsHead(8), torch.randn(5, len(COLUMN_NAMES))
    for weights in head.residual[-1].parameters():
        torch.nn.init.normal_(weights)
    assert head.deep(head.standardised(columns)).abs().min() > 0
    assert not head.of_tower(columns).any()


def test_reasons_name_every_family_by_its_own_columns() -> None:
    values = np.full(len(COLUMN_NAMES), np.nan, dtype=np.float32)
    values[[COLUMN[name] for name in OWN_NAMES]] = 0.0

    def reasons(contributions: dict[str, float], of_tower: float) -> list[Reason]:
        said = np.zeros((1, len(COLUMN_NAMES)), dtype=np.float32)
        for name, share in contributions.items():
            said[0, COLUMN[name]] = share
        (shares,) = family_shares(said, np.array([of_tower], dtype=np.float32)).tolist()
        return item_reasons(values.tolist(), shares, None)

    assert reasons({}, 0.0) == []
    values[COLUMN["taste"]] = 1.0
    (reason,) = reasons({"taste": 3.0}, 0.5)
    assert (reason.code, reason.weight) == ("TASTE", 0.5)
    values[COLUMN["bought"]], values[COLUMN["count"]] = 1.0, np.log1p(3)
    values[COLUMN["age"]], values[COLUMN["interval"]] = np.log1p(12), np.log1p(14)
    found = reasons({"count": 0.4, "due": 0.2, "age": 0.1, "orders": 9.0}, 0.0)
    assert [reason.code for reason in found] == ["OFTEN", "DUE"]
    assert [reason.text for reason in found] == [
        "bought 3 times",
        "last bought 12 days ago, usually every 14 days",
    ]
    assert [reason.weight for reason in found] == [0.4, 0.3]


def test_what_sold_is_saved_with_the_model(model: Model, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("models") / "one"
    saved_model.save(model, folder)
    loaded, _ = saved_model.load(folder, TASKS)
    one, two = model.heads["next-items"], loaded.heads["next-items"]
    assert isinstance(one, ItemsHead) and isinstance(two, ItemsHead) and len(one.popularity.hashes) > 0
    for name, value in one.popularity.state_dict().items():
        assert torch.equal(value, two.popularity.state_dict()[name])
