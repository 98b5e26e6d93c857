"""A planted segment is found by vectors that know it, at the rate of chance by others; shared scores lose little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.evaluate import audience
from infra.evaluate.audience import BOUGHT, CHANCE, OURS, RFV, AudienceSpans, hand_made_vectors, planted, spans_of
from infra.evaluate.prototypes import shared_scores
from infra.evaluate.purchases import read_purchases
from infra.evaluate.report import EvaluationOptions
from infra.evaluate.statistics import Bootstrap, auc, sigmoid
from schemas.events import Clickstream
from streams.core.config import DAY_MS
from streams.sources.simulate.simulator import Simulator
from streams.sources.source import SIMULATION_START_MS as START


def test_precision_is_that_of_what_the_vectors_know() -> None:
    generator = np.random.default_rng(0)
    count = 600
    member = np.arange(count) < 60
    noise = generator.normal(size=(count, 8)).astype(np.float32)
    knows = noise.copy()
    knows[:, 3] += 6 * member
    cases = list(audience._cases({"planted": np.flatnonzero(member)}, {OURS: knows, RFV: noise}, count))
    assert len(cases) == 5 and all(case.labels.sum() == 36 and len(case.rest) == count - 24 for case in cases)
    measures = {name: audience.precision(cases, name) for name in (OURS, RFV, CHANCE)}
    drawn = Bootstrap(measures, np.arange(count), rounds=100)
    assert drawn.values[OURS] > 0.8
    assert drawn.values[CHANCE] == pytest.approx(36 / 576)
    assert drawn.values[RFV] < 0.2
    lift = drawn.ratio(OURS, CHANCE)
    assert 10 < lift.low < lift.value < lift.high
    # A customer who is drawn twice counts twice, and one who is not counts not at all.
    first = cases[0]
    only = np.zeros(count)
    only[first.rest[first.orders[OURS][:10]]] = 2.0
    expected = first.labels[first.orders[OURS][:10]]
    assert audience.precision([first], OURS)(only) == pytest.approx(expected[: int(expected.sum())].mean())


def test_segments_are_planted_by_the_truth() -> None:
    truths = Simulator(1, 400, START, 2).truth()
    found = planted(truths, 10)
    assert set(found) == {"taste", "pace", "hour", "price"} and len(found["taste"]) > 6
    for rows in found["taste"].values():
        assert len(rows) >= 10
    (often,) = found["pace"].values()
    assert len(often) == 40
    assert min(truths[row].sessions_per_day for row in often) >= np.quantile([t.sessions_per_day for t in truths], 0.89)


def test_hand_made_vectors_end_before_the_question() -> None:
    at_ms = START + 10 * DAY_MS

    def bought(day: int, customer: str, category: str) -> tuple[str, str, Clickstream, int]:
        ts_ms = START + day * DAY_MS
        body = Clickstream(event="purchase", event_ts_ms=ts_ms, item_id="i", category=category, value=3.0)
        return "clickstream", customer, body, ts_ms

    events = [bought(1, "a", "tea"), bought(3, "a", "tea"), bought(4, "b", "milk"), bought(11, "a", "milk")]
    vectors = hand_made_vectors(read_purchases(events), ["b", "a", "silent"], at_ms)
    np.testing.assert_allclose(np.expm1(vectors[RFV]), [[6, 1, 3], [7, 2, 6], [10, 0, 0]], rtol=1e-5)
    assert vectors[BOUGHT].tolist() == [[1, 0], [0, 1], [0, 0]], "milk, tea"


def test_scores_that_follow_the_embedding_can_be_shared() -> None:
    generator = np.random.default_rng(3)
    embeddings = generator.normal(size=(500, 2)).astype(np.float32)
    logits = 2 * embeddings[:, 0].astype(np.float64)
    labels = (generator.random(500) < sigmoid(logits)).astype(np.float64)
    ones = np.ones(500)
    lost = [auc(labels, logits)(ones) - auc(labels, shared_scores(embeddings, logits, n))(ones) for n in (3, 100, 500)]
    assert lost[0] > lost[1] > -0.01 and lost[1] < 0.03 and lost[2] == pytest.approx(0.0)
    assert (
        set(shared_scores(embeddings, logits, 3)) <= set(logits) and len(set(shared_scores(embeddings, logits, 3))) <= 3
    )


@pytest.mark.slow
def test_the_evaluation_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    spans = AudienceSpans(plan=spans_of(80, 40).plan, prototypes=(10,), least=3)
    found = audience.run(EvaluationOptions(folder=tmp_path, epochs=1, rounds=20), lambda _text: None, spans)
    assert {row.measure for row in found.results} == {"precision", "lift", "AUC"}
    assert [target.floor is not None for target in found.targets] == [True, True]
    for row in found.results:
        assert np.isfinite(row.value) and row.rows > 40, row
