"""What was said last is said again when it has moved, or when it would end; readers are never far off."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.predictions import BehaviourPrediction, probabilities
from schemas.snapshot import DAY_MS, LIVE_KINDS, SnapshotKind
from streams.serving.news import News

MARGIN = 0.02


def said(probability: float, at_ms: int = 0, kind: SnapshotKind = "event", customer: str = "c") -> BehaviourPrediction:
    return BehaviourPrediction(
        prediction_id=f"{customer}-{kind}-{at_ms}", question_id="q", customer_id=customer, as_of_ms=at_ms,
        model_version="m", valid_until_ms=at_ms + 7 * DAY_MS, source=("clickstream", 0, 0), event_ts_ms=at_ms,
        latency_ms=0, snapshot_kind=kind, churn_14d=0.5, churn_28d=probability, churn_56d=0.0,
    )  # fmt: skip


def sent(news: News, records: Iterable[BehaviourPrediction]) -> list[bool]:
    return [bool(news("behaviour", record)) for record in records]


records = st.builds(
    said,
    st.floats(0, 0.1),
    st.integers(0, 30).map(lambda step: step * DAY_MS // 4),
    st.sampled_from(("event", "refresh", "horizon", "sample")),
)


@given(st.lists(records, min_size=1, max_size=40))
def test_who_reads_the_newest_is_never_further_off_than_the_margin(told: list[BehaviourPrediction]) -> None:
    """In whatever order they come: a question of settled state comes behind live records that are of later."""
    news, read = News(MARGIN), None
    newest: BehaviourPrediction | None = None
    for record in told:
        newest = record if newest is None or record.as_of_ms >= newest.as_of_ms else newest
        out = news("behaviour", record)
        assert record in out or record.snapshot_kind in LIVE_KINDS, "what is judged is always sent"
        for one in out:
            assert isinstance(one, BehaviourPrediction)
            read = one if read is None or one.as_of_ms >= read.as_of_ms else read
        assert read is not None
        assert abs(read.churn_28d - newest.churn_28d) <= MARGIN
        assert newest.as_of_ms < read.valid_until_ms


def test_small_moves_add_up_and_half_of_the_validity_is_enough() -> None:
    news = News(MARGIN)
    assert sent(news, map(said, (0.1, 0.11, 0.119, 0.121, 0.13))) == [True, False, False, True, False]
    day = DAY_MS
    assert sent(news, (said(0.13, at) for at in (3 * day, 4 * day, 5 * day))) == [False, True, False]


def test_what_is_left_open_is_news_when_it_is_said() -> None:
    news = News(MARGIN)
    assert sent(news, [said(0.1), said(0.1)]) == [True, False]
    bought = msgspec.structs.replace(said(0.1), repeat_purchase_7d=0.3)
    assert "repeat_purchase_7d" in probabilities(bought) and sent(news, [bought]) == [True]


def test_customers_tasks_and_what_was_forgotten_are_told_apart() -> None:
    news = News(MARGIN, budget_bytes=8_000)
    assert sent(news, [said(0.1, customer=name) for name in "abab"]) == [True, True, False, False]
    assert news("send-time", said(0.1, customer="b")), "of another task; the longest ago is forgotten"
    assert len(news) == 2
    assert sent(news, [said(0.1, customer="a")]) == [True]
    news.forget("behaviour", "a")
    assert sent(news, [said(0.1, customer="a")]) == [True]
    news.clear()
    assert not len(news) and sent(news, [said(0.1, customer="a")]) == [True]
