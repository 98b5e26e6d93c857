"""What an embedding adds to counts is found where it is there, and not where it is not; baskets are ranked right."""

from __future__ import annotations

import numpy as np
import pytest

from infra.evaluate import goods
from infra.evaluate.floors import FEATURES
from infra.evaluate.goods import GoodsRows
from infra.evaluate.last_orders import last_orders
from infra.evaluate.next_basket import POPULAR, _floors
from infra.evaluate.purchases import read_purchases
from infra.evaluate.statistics import sigmoid
from schemas.events import Clickstream
from streams.core.config import DAY_MS


def _rows(seed: int, count: int = 3_000, width: int = 4) -> tuple[GoodsRows, np.ndarray]:
    """Two goods; the first is taken by count and by the embedding's first number, the second by count alone."""
    generator = np.random.default_rng(seed)
    own = generator.normal(size=(count, 2, 3)).astype(np.float32)
    embeddings = generator.normal(size=(count, width)).astype(np.float32)
    logits = own[:, :, 0] + np.stack([embeddings[:, 0], np.zeros(count)], axis=1)
    labels = generator.random((count, 2)) < sigmoid(logits)
    general = np.zeros((count, len(FEATURES)), dtype=np.float32)
    customer = np.arange(count) // 5
    return GoodsRows(customer, np.arange(count) % 5, general, own, labels), embeddings


@pytest.mark.parametrize("half", [False, True])
def test_a_gain_is_found_where_there_is_one(half: bool) -> None:
    pytest.importorskip("lightgbm")
    (train, seen), (test, judged) = _rows(1), _rows(2)
    noise = [np.random.default_rng(seed).normal(size=seen.shape).astype(np.float32) for seed in (3, 4)]
    found = goods.judge(
        train,
        test,
        {goods.OURS: (seen, judged), goods.RANDOM: (noise[0], noise[1])},
        train.customer % 2 == 0 if half else np.ones(len(train), dtype=np.bool_),
        goods.Choice(300.0, {}),
        20,
        lambda _text: None,
    )
    results, targets = goods.figures("goods", test, found, None, 100)
    gains = {row.name: row for row in results if row.role == "difference"}
    ours, random = gains[f"{goods.OURS} less {goods.FLOOR}"], gains[f"{goods.RANDOM} less {goods.FLOOR}"]
    assert ours.low is not None and ours.low > 0.02
    assert random.value < 0.005 and gains[f"{goods.SHUFFLED} less {goods.FLOOR}"].value < 0.005
    assert [target.met for target in targets] == [True, True]


def test_the_choice_is_made_on_later_days() -> None:
    pytest.importorskip("lightgbm")
    train, embeddings = _rows(5)
    choice = goods.choose(train, embeddings, np.ones(len(train), dtype=np.bool_), 3, 4, 20, lambda _text: None)
    assert choice.tried["floor"] < max(choice.tried.values())
    assert len(choice.tried) == len(goods.RIDGES) + 1


def test_the_last_basket_is_asked_of_those_before_it() -> None:
    baskets = [("a", 0, "milk bread"), ("a", 7, "milk"), ("a", 14, "milk eggs"), ("b", 3, "milk"), ("guest-1", 1, "x")]
    events = [
        (
            "clickstream",
            customer,
            Clickstream(
                event="purchase", event_ts_ms=day * DAY_MS, event_id=f"{n}-{item}", order_id=str(n), item_id=item
            ),
            day * DAY_MS,
        )
        for n, (customer, day, items) in enumerate(baskets)
        for item in items.split()
    ]
    bought = read_purchases(events)
    last = last_orders(bought, 2)
    assert last.begin_ms == {"a": 14 * DAY_MS}
    whole, new = _floors(bought, last, ["a"])
    assert whole["frequency", "recall@10"].tolist() == [0.5 + 0.5]  # few items: all are among the best ten
    assert 0.5 < whole["frequency", "NDCG@10"][0] < 1.0, "eggs were never bought before"
    assert new[POPULAR, "recall@10"].tolist() == [1.0]
    assert [ts_ms // DAY_MS for *_, ts_ms in last.cut(sorted(events, key=lambda e: e[3]))] == [0, 0, 1, 3, 7]
