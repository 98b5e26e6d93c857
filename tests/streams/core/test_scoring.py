"""How good predictions were: the statistic against its definition, the join against any order of arrival."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core import scoring
from streams.core.config import DAY_MS
from streams.core.scoring import LiveScore, auc

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 1)), max_size=30)


def counted(pairs: Sequence[tuple[float, int]]) -> float | None:
    """The definition: how often a positive scores above a negative, a tie counting half."""
    above = [score for score, label in pairs if label]
    below = [score for score, label in pairs if not label]
    if not above or not below:
        return None
    return sum((high > low) + (high == low) / 2 for high in above for low in below) / (len(above) * len(below))


@given(pairs=PAIRS)
def test_auc_counts_pairs(pairs: list[tuple[float, int]]) -> None:
    expected = counted(pairs)
    assert auc(pairs) == (None if expected is None else pytest.approx(expected, abs=1e-12))


@given(pairs=PAIRS, seed=st.integers(0, 1_000))
def test_auc_depends_on_order_of_scores_only(pairs: list[tuple[float, int]], seed: int) -> None:
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    assert auc(iter(shuffled)) == auc(pairs)
    assert auc([(score**3, label) for score, label in pairs]) == auc(pairs)
    found, flipped = auc(pairs), auc([(1 - score, label) for score, label in pairs])
    assert found is None or flipped == pytest.approx(1 - found)


def test_auc_of_perfect_wrong_and_constant_scores() -> None:
    assert auc([(0.9, 1), (0.1, 0)]) == 1.0
    assert auc([(0.1, 1), (0.9, 0)]) == 0.0
    assert auc([(0.5, 1), (0.5, 0), (0.5, 0)]) == 0.5
    assert auc([]) is None and auc([(0.5, 1)]) is None and auc([(0.5, 0)]) is None


QUESTIONS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(0, 100)), max_size=20)
"""(probability, label, due ms)"""


@given(questions=QUESTIONS, now_ms=st.integers(0, 100), data=st.data())
def test_order_of_arrival_and_repetition_change_nothing(
    questions: list[tuple[float, int, int]], now_ms: int, data: st.DataObject
) -> None:
    said = [(kind, at) for at in range(len(questions)) for kind in ("predicted", "answered")]
    again = data.draw(st.lists(st.sampled_from(said), max_size=10), "again") if said else []
    arriving = data.draw(st.permutations([*said, *again]), "arriving")
    score = LiveScore(window=None)
    for kind, at in arriving:
        probability, label, due_ms = questions[at]
        if kind == "predicted":
            score.predicted(f"q{at}", probability)
        else:
            score.answered(f"q{at}", label, due_ms)
        if data.draw(st.booleans(), "look"):
            score.pass_time(now_ms)
    score.pass_time(now_ms)
    expected = [(probability, label) for probability, label, due_ms in questions if due_ms <= now_ms]
    assert sorted(score.pairs) == sorted(expected)
    assert len(score) == len(expected)
    assert score.auc() == (None if counted(expected) is None else pytest.approx(counted(expected)))


def test_an_early_answer_waits_for_the_end_of_its_question() -> None:
    score = LiveScore()
    score.predicted("back-early", 0.2)
    score.answered("back-early", 0, due_ms=100)
    score.pass_time(99)
    assert score.pairs == [] and score.auc() is None
    score.pass_time(100)
    assert score.pairs == [(0.2, 0)]
    score.pass_time(50)
    assert score.pairs == [(0.2, 0)]


def test_the_first_word_of_a_repeated_id_counts() -> None:
    score = LiveScore()
    score.predicted("q", 0.2)
    score.predicted("q", 0.9)
    score.answered("q", 1, 10)
    score.answered("q", 0, 5)
    score.predicted("q", 0.7)
    score.pass_time(10)
    score.pass_time(20)
    assert score.pairs == [(0.2, 1)]


def test_half_a_pair_never_counts() -> None:
    score = LiveScore()
    score.predicted("never answered", 0.2)
    score.answered("never predicted", 1, 10)
    score.pass_time(10**15)
    assert len(score) == 0


def test_the_window_holds_the_newest_questions() -> None:
    score = LiveScore(window=3)
    for at in range(10):
        score.predicted(f"q{at}", at / 10)
        score.answered(f"q{at}", at % 2, due_ms=at)
    score.pass_time(100)
    assert score.pairs == [(0.7, 1), (0.8, 0), (0.9, 1)]


def test_an_id_that_left_the_window_does_not_come_back() -> None:
    score = LiveScore(window=2)

    def ask(at: int) -> None:
        score.predicted(f"q{at}", at / 10)
        score.answered(f"q{at}", at % 2, due_ms=at)
        score.pass_time(at)

    for at in range(5):
        ask(at)
    kept = [(0.3, 1), (0.4, 0)]
    assert score.pairs == kept
    for at in range(5):
        ask(at)
    assert score.pairs == kept
    assert score.open == 0, "nothing waits for an outcome that was refused"
    ask(5)
    assert score.pairs == [(0.4, 0), (0.5, 1)]


@given(
    calls=st.lists(st.tuples(st.sampled_from(["predicted", "answered", "pass", "resize"]), st.integers(0, 9))),
    window=st.integers(0, 4),
    kept=st.integers(1, 12),
)
def test_no_outcome_counts_twice(calls: list[tuple[str, int]], window: int, kept: int) -> None:
    score = LiveScore(window=window, kept=kept)
    ever: set[tuple[float, int]] = set()
    before: set[tuple[float, int]] = set()
    for kind, at in calls:
        if kind == "predicted":
            score.predicted(f"q{at}", at / 10)
        elif kind == "answered":
            score.answered(f"q{at}", at % 2, due_ms=at // 2)
        elif kind == "pass":
            score.pass_time(at)
        else:
            score.resize(at)
        now = set(score.pairs)
        assert len(now) == len(score) and score.open <= kept
        assert not (now - before) & ever, "who left does not come back"
        before, ever = now, ever | now


def test_the_window_may_be_resized() -> None:
    score = LiveScore(window=None)
    for at in range(6):
        score.predicted(f"q{at}", at / 10)
        score.answered(f"q{at}", 0, due_ms=at)
    score.pass_time(5)
    assert len(score) == 6
    score.resize(2)
    assert score.pairs == [(0.4, 0), (0.5, 0)]
    score.resize(4)
    score.predicted("q0", 0.9)
    score.answered("q0", 1, due_ms=0)
    score.predicted("q6", 0.6)
    score.answered("q6", 0, due_ms=6)
    score.pass_time(6)
    assert score.pairs == [(0.4, 0), (0.5, 0), (0.6, 0)], "what left stays out"


Said = tuple[str, int]
"""(predicted or answered, question)"""


def say(score: LiveScore, said: Said, names: Sequence[str]) -> None:
    kind, at = said
    if kind == "predicted":
        score.predicted(names[at], at / len(names))
    else:
        score.answered(names[at], at % 2, due_ms=at)


IDS = st.one_of(
    st.uuids().map(lambda one: one.hex),
    st.text(max_size=8),
    st.integers(0, 10**6).map(lambda number: f"{number:032d}"),
    st.text(st.characters(categories=["Cs"]), max_size=2),
)
"""Ours are hex and even; others' may be anything."""


@given(names=st.lists(IDS, unique=True, max_size=40), kept=st.integers(1, 8), data=st.data())
def test_a_pair_is_in_or_out_whatever_came_first(names: list[str], kept: int, data: st.DataObject) -> None:
    every = [(kind, at) for at in range(len(names)) for kind in ("predicted", "answered")]
    score = LiveScore(window=None, kept=kept)
    again = data.draw(st.lists(st.sampled_from(every), max_size=10), "again") if every else []
    for said in data.draw(st.permutations([*every, *again]), "arriving"):
        say(score, said, names)
        assert score.open <= kept, "the bound holds at any time"
        if data.draw(st.booleans(), "look"):
            score.pass_time(len(names) // 2)
    score.pass_time(len(names))
    assert score.open == 0, "everything was said, so no half is left alone"
    inside = [at for at in range(len(names)) if scoring.key_of(names[at]) < score.share * 2**64]
    assert score.pairs == [(at / len(names), at % 2) for at in inside]


def test_of_the_sample_exactly_those_count_whose_horizon_has_ended() -> None:
    """Also after the threshold was halved while they waited."""
    for seed in range(100):
        dues = random.Random(seed).sample(range(1_000), 120)
        score = LiveScore(window=None, kept=50)
        for due_ms in dues:
            score.predicted(f"q{due_ms}", due_ms / 1_000)
            score.answered(f"q{due_ms}", due_ms % 2, due_ms=due_ms)
        assert score.share < 1
        inside = [due_ms for due_ms in sorted(dues) if scoring.key_of(f"q{due_ms}") < score.share * 2**64]
        for now_ms in range(0, 1_000, 100):
            score.pass_time(now_ms)
            assert score.pairs == [(due_ms / 1_000, due_ms % 2) for due_ms in inside if due_ms <= now_ms]
            assert score.open == sum(due_ms > now_ms for due_ms in inside)


@given(names=st.lists(IDS, unique=True, max_size=30), data=st.data())
def test_below_the_bound_nothing_is_sampled(names: list[str], data: st.DataObject) -> None:
    every = [(kind, at) for at in range(len(names)) for kind in ("predicted", "answered")]
    bounded, unbounded = LiveScore(window=None, kept=max(1, len(names))), LiveScore(window=None, kept=10**9)
    for said in data.draw(st.permutations(every)):
        say(bounded, said, names)
        say(unbounded, said, names)
    for score in (bounded, unbounded):
        score.pass_time(len(names))
    assert bounded.share == 1
    assert bounded.pairs == unbounded.pairs
    assert bounded.auc() == unbounded.auc() == auc([(at / len(names), at % 2) for at in range(len(names))])


@pytest.mark.slow
@pytest.mark.parametrize("mature", ["at the end", "as time passes"])
@pytest.mark.parametrize("first", ["predicted", "answered", "either"])
def test_the_sample_tells_what_all_would(first: str, mature: str) -> None:
    """Labels follow the scores, and who churns is answered last, as in life: the sample must not care."""
    even, count, day = random.Random(7), 100_000, DAY_MS
    said: list[tuple[float, str, int]] = []
    pairs: list[tuple[float, int]] = []
    for at in range(count):
        asked = at * 100 * day / count
        probability = even.random()
        label = int(even.random() < probability)
        pairs.append((probability, label))
        resolved = asked + (28 if label else 28 * even.random()) * day
        predicted = {"predicted": asked, "answered": resolved + 1}.get(first, even.choice([asked, resolved + 1]))
        said += [(predicted, "predicted", at), (resolved, "answered", at)]
    score = LiveScore(window=None if mature == "at the end" else 2_000, kept=2_000)
    for now, kind, at in sorted(said):
        due_ms = int((at * 100 / count + 28) * day)
        if mature == "as time passes":
            score.pass_time(int(now))
        if kind == "predicted":
            score.predicted(f"{at:032x}", pairs[at][0])
        else:
            score.answered(f"{at:032x}", pairs[at][1], due_ms)
    score.pass_time(1000 * day)
    true, found = auc(pairs), score.auc()
    assert true is not None and found is not None
    assert 500 < len(score) <= 2_000
    assert score.share <= 0.25
    assert found == pytest.approx(true, abs=0.05)
    churned = sum(label for _, label in score.pairs) / len(score)
    assert churned == pytest.approx(0.5, abs=0.06), "neither label is preferred"


def test_what_can_no_longer_be_joined_does_not_fill_the_sample() -> None:
    """Outcomes whose predictions retention took, and predictions of those who never answer."""
    score = LiveScore(kept=100)
    for at in range(100):
        score.answered(f"old {at}", 0, due_ms=at + 28 * DAY_MS, as_of_ms=at)
    score.predicted("new", 0.5, as_of_ms=300 * DAY_MS)
    assert (score.open, score.share) == (1, 1.0)
    for at in range(99):
        score.predicted(f"erased {at}", 0.5, as_of_ms=300 * DAY_MS + at)
    score.pass_time(336 * DAY_MS)
    score.answered("new", 1, due_ms=328 * DAY_MS, as_of_ms=300 * DAY_MS)
    score.predicted("newer", 0.5, as_of_ms=336 * DAY_MS)
    assert (score.open, score.share) == (2, 1.0)
    score.pass_time(336 * DAY_MS)
    assert score.pairs == [(0.5, 1)]


def test_without_times_halves_are_sampled() -> None:
    score = LiveScore(kept=50)
    for at in range(10_000):
        score.predicted(f"p{at}", 0.5)
        score.answered(f"a{at}", 1, 0)
        assert score.open <= 50
    assert score.open > 10
    assert len(score) == 0
