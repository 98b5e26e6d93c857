"""Which rows are for what: no customer, no campaign and no time is on both sides of what is measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds

from models import outcomes
from models.candidate_task import CandidateLesson
from models.entities import WordRows
from models.hazard_lesson import HazardLesson
from models.outcomes import FIT, GATE, REPORT, STAGES, STOP, Rows, Split
from models.sequence import SequenceSize
from models.task import Evidence, Lesson
from models.tasks import TASKS
from schemas.snapshot import DAY_MS, Outcome

LEXICON = WordRows(worlds.vocabulary(), worlds.catalog())
SIZE = SequenceSize(recent=2, history=0, graph=0)
NOTHING = outcomes.read({"churn": []}, LEXICON, SIZE)["churn"]


def made_up(random: np.random.Generator, count: int, customers: int, span_days: int, horizon_days: int) -> Rows:
    """Rows of customers who are dealt out to the stages by number; horizons differ, as those of campaigns do."""
    as_of_ms = worlds.START_MS + np.sort(random.integers(0, span_days * DAY_MS, count))
    customer = random.integers(0, customers, count)
    return replace(
        NOTHING,
        customers=customer,
        stage=np.array([outcomes.stage_of(str(number)) for number in customer.tolist()], dtype=np.int64),
        live=np.zeros(count, dtype=np.bool_),
        as_of_ms=as_of_ms,
        due_ms=as_of_ms + random.integers(1, horizon_days * DAY_MS + 1, count),
        cut_ms=int(np.quantile(as_of_ms, 1 - outcomes.NEWEST)),
    )


def apart(rows: Rows, split: Split, group: Any) -> None:
    """No group is in two stages."""
    for one, two in itertools.combinations(STAGES, 2):
        assert not set(group[getattr(split, one)].tolist()) & set(group[getattr(split, two)].tolist()), (one, two)


def in_time(rows: Rows, split: Split, known_ms: Any) -> None:
    """All that is learned from had ended when what is judged begins."""
    learned, judged = np.concatenate([split.fit, split.stop]), np.concatenate([split.gate, split.report])
    assert known_ms[learned].max() <= rows.cut_ms <= rows.as_of_ms[judged].min()


worlds_of_rows = st.builds(
    lambda seed, *shape: (np.random.default_rng(seed), *shape),
    st.integers(0, 1_000), st.integers(1, 3_000), st.integers(1, 200), st.integers(1, 400), st.integers(1, 60),
)  # fmt: skip


@given(worlds_of_rows, st.floats(0, 1), st.floats(0, 0.5))
@settings(max_examples=150, deadline=None)
def test_stages_share_no_customer_and_no_time(shape: Any, rate: float, unlabelled: float) -> None:
    random, count, customers, span_days, horizon_days = shape
    rows = made_up(random, count, customers, span_days, horizon_days)
    labels = (random.random(count) < rate).astype(np.float32)
    labels[random.random(count) < unlabelled] = np.nan
    known_ms = rows.due_ms + random.integers(0, 2, count) * DAY_MS
    split = outcomes.split(rows, labels, known_ms)
    apart(rows, split, rows.customers)
    apart(rows, split, np.arange(count))
    parts = (split.fit, split.stop, split.gate, split.report)
    for stage, part in enumerate(parts):
        assert (rows.stage[part] == stage).all() and np.isfinite(labels[part]).all()
    if split.by == "later":
        in_time(rows, split, known_ms)
        assert min(len(split.fit), len(split.gate)) >= outcomes.MIN_ROWS
        for stage in (FIT, GATE, REPORT):
            assert set(labels[parts[stage]]) == set(labels[np.isfinite(labels)]), "each has what can be told apart"
    else:
        assert split.by == "customers"
        assert sum(map(len, parts)) == np.isfinite(labels).sum(), "of few rows none is given away"


@given(worlds_of_rows, st.integers(1, 30), st.floats(0.05, 0.95))
@settings(max_examples=150, deadline=None)
def test_stages_share_no_new_campaign(shape: Any, campaigns: int, rate: float) -> None:
    """Campaigns that begin one after the other and go on for a while, some through the cut."""
    random, count, customers, span_days, horizon_days = shape
    rows = made_up(random, count, customers, span_days, horizon_days)
    labels = (random.random(count) < rate).astype(np.float32)
    place = campaigns * (rows.as_of_ms - worlds.START_MS) // (span_days * DAY_MS)
    campaign = np.maximum(0, place - random.integers(0, 2, count))
    split = outcomes.split_by_campaigns(rows, labels, campaign)
    if split is None:
        return
    apart(rows, split, rows.customers)
    assert split.by in ("campaigns", "overlapping")
    if split.by == "campaigns":
        in_time(rows, split, rows.due_ms)
    learned, judged = np.concatenate([split.fit, split.stop]), np.concatenate([split.gate, split.report])
    assert not set(campaign[learned].tolist()) & set(campaign[judged].tolist())


@pytest.mark.parametrize("horizon_days", [7, 28])
def test_a_log_of_half_a_year_is_split_in_time_and_by_campaigns(horizon_days: int) -> None:
    rows = made_up(np.random.default_rng(0), 6_000, 1_000, 180, horizon_days)
    labels = (np.arange(6_000) % 4 == 0).astype(np.float32)
    split = outcomes.split(rows, labels)
    assert split.by == "later"
    # Of twenty customers 12 for three quarters of the time, less what had not ended; 4 and 2 for the rest.
    share = 0.75 - horizon_days / 2 / 180
    assert [len(part) / 6_000 for part in split[:4]] == pytest.approx([0.6 * share, 0.1 * share, 0.05, 0.025], abs=0.02)
    campaign = (rows.as_of_ms - worlds.START_MS) // (9 * DAY_MS)
    found = outcomes.split_by_campaigns(rows, labels, campaign)
    assert found is not None and found.by == "campaigns"
    assert not set(campaign[found.gate]) & set(campaign[found.report])
    last = np.minimum(campaign, campaign[rows.as_of_ms >= rows.cut_ms].min() + 1)
    found = outcomes.split_by_campaigns(rows, labels, last)
    assert found is not None and found.by == "campaigns" and set(last[found.gate]) == set(last[found.report])
    endless = replace(rows, due_ms=rows.due_ms + 150 * DAY_MS)
    found = outcomes.split_by_campaigns(endless, labels, campaign)
    assert found is not None and found.by == "overlapping"
    assert outcomes.split_by_campaigns(rows, labels, campaign % 2) is None, "none is new"


def with_new_campaigns(found: list[Outcome]) -> list[Outcome]:
    """A campaign every three days."""

    def moved(outcome: Outcome) -> Outcome:
        candidate = outcome.seen.candidate
        if candidate is None:
            return outcome
        name = f"{(outcome.as_of_ms - worlds.START_MS) // (3 * DAY_MS)}"
        sent = msgspec.structs.replace(candidate, campaign_id=name)
        return msgspec.structs.replace(outcome, snapshot=msgspec.structs.replace(outcome.seen, candidate=sent))

    return [moved(outcome) for outcome in found]


def test_no_task_learns_from_what_another_one_is_judged_by() -> None:
    found = outcomes.by_question(
        with_new_campaigns(worlds.with_orders(worlds.outcomes(12_000, seed=1))), [task.question for task in TASKS]
    )
    rows = outcomes.read(found, LEXICON, SIZE)
    lessons: dict[str, Lesson] = {}
    for task in TASKS:
        evidence = Evidence(found[task.question], rows[task.question], worlds.catalog(), LEXICON)
        lessons[task.name] = task.lesson(evidence)
    assert {name: lesson.missing for name, lesson in lessons.items() if lesson.missing} == {}
    assert {name: lesson.split.by for name, lesson in lessons.items()} == {
        "churn": "later", "redemption": "campaigns", "open": "campaigns", "click": "campaigns", "send-time": "later",
        "behaviour": "later", "next-items": "later",
    }  # fmt: skip
    customers = [_of_all(lessons, stage, lambda lesson: lesson.rows.customers) for stage in STAGES]
    assert all(customers)
    for one, two in itertools.combinations(customers, 2):
        assert not one & two
    judged_from_ms = min(lesson.rows.cut_ms for lesson in lessons.values())
    for lesson in lessons.values():
        in_time(lesson.rows, lesson.split, lesson.rows.due_ms)
        assert lesson.rows.cut_ms == judged_from_ms, "one time for all questions"
    sends = {name: lesson for name, lesson in lessons.items() if isinstance(lesson, CandidateLesson)}
    campaigns = [_of_all(sends, stage, lambda lesson: lesson.campaign) for stage in STAGES]
    for one, two in itertools.combinations((campaigns[FIT] | campaigns[STOP], campaigns[GATE], campaigns[REPORT]), 2):
        assert one and two and not one & two


def _of_all(lessons: Mapping[str, Lesson], stage: str, group: Callable[[Any], Any]) -> set[int]:
    return {int(one) for lesson in lessons.values() for one in group(lesson)[getattr(lesson.split, stage)]}


def test_hazards_are_learned_from_what_was_seen_by_then() -> None:
    """Orders are followed for twice as long as the horizon; of rows that had ended, only until the others begin."""
    found = outcomes.by_question(worlds.outcomes(3_000, seed=2), ["churn"])
    rows = outcomes.read(found, LEXICON, SIZE)
    (task,) = (task for task in TASKS if task.name == "behaviour")
    lesson = task.lesson(Evidence(found["churn"], rows["churn"], worlds.catalog(), LEXICON))
    assert isinstance(lesson, HazardLesson) and lesson.split.by == "later"
    shown, whole = lesson._targets["order"], lesson.seen["order"]
    until_days = (lesson.rows.cut_ms - lesson.rows.as_of_ms[:, None]) / DAY_MS
    learned = np.zeros(len(shown), dtype=np.bool_)
    learned[np.concatenate([lesson.split.fit, lesson.split.stop])] = True
    ends = np.array([1.0, 2, 4, 7, 10, 14, 21, 28, 42, 56])
    expected = np.where(learned[:, None] & (ends <= until_days), whole, np.nan)
    assert np.array_equal(shown, expected, equal_nan=True)
    assert (np.isnan(shown) & np.isfinite(whole))[learned].any()


def test_a_response_may_be_known_later_than_the_redemption_beside_it() -> None:
    made = worlds.outcome("q", next(o for o in worlds.outcomes(9) if o.head == "redemption").seen, 0, due_ms=5 * DAY_MS)
    beside = [
        msgspec.structs.replace(made, head=head, labels={head: 1}, due_ms=due_ms, snapshot=None)
        for head, due_ms in (("response", 9 * DAY_MS), ("order", 70 * DAY_MS))
    ]
    ((found,),) = outcomes.by_question([made, *beside], ["redemption"]).values()
    assert (found.due_ms, found.labels["response"]) == (9 * DAY_MS, 1)
