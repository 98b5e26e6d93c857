"""How good predictions were: the statistic against its definition, the join against any order of arrival."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_half_a_question_never_counts() -> None:
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


def test_what_is_never_joined_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.core.scoring._KEPT", 5)
    score = LiveScore()
    for at in range(20):
        score.predicted(f"p{at}", 0.5)
        score.answered(f"a{at}", 1, 0)
    score.predicted("a0", 0.5)
    score.answered("p0", 1, 0)
    score.predicted("a19", 0.5)
    score.answered("p19", 1, 0)
    score.pass_time(0)
    assert len(score) == 2, "the oldest halves are forgotten, the newest still join"
