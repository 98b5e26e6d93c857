"""Laws of every task, and one more in a file of its own: this one."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch
from support import model_worlds as worlds

from models import metrics, outcomes, saved_model, training
from models.customer_task import CustomerTask
from models.encoder import EncoderSize, default_config
from models.entities import WordRows
from models.inference import Predictor
from models.model import Model
from models.outcomes import STAGES
from models.sequence import SequenceSize
from models.task import Evidence, Moment, Task
from models.tasks import TASKS
from schemas import topics
from schemas.ids import prediction_id
from schemas.limits import Probability
from schemas.predictions import Prediction, Reason, probabilities
from schemas.snapshot import DAY_MS, Outcome, Snapshot, SnapshotKind
from streams.core.decisions import DecisionPolicy
from streams.serving.predict import Predictions

LEXICON = WordRows(worlds.vocabulary(), worlds.catalog())
SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))
_EVERY_KIND: tuple[SnapshotKind, ...] = ("event", "horizon", "send", "sample", "refresh")


class StayPrediction(Prediction, frozen=True, kw_only=True):
    """Probability that a customer comes back."""

    probability: Probability
    reason_codes: list[Reason]


class Stay(CustomerTask):
    """What churn's outcomes say the other way round, of the first half of the days only."""

    name = "stay"
    question = "churn"
    topic = "predictions.stay"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"event"})

    def label(self, outcome: Outcome) -> int | None:
        return 1 - outcome.label if outcome.as_of_ms < worlds.START_MS + 45 * DAY_MS else None

    def record(
        self, snapshot: Snapshot, probability: float, reasons: list[Reason], horizon_days: int, fields: dict[str, Any]
    ) -> StayPrediction:
        return StayPrediction(
            **fields, valid_until_ms=snapshot.as_of_ms + DAY_MS, probability=probability, reason_codes=reasons
        )


EVERY: tuple[Task, ...] = (*TASKS, Stay())
MOMENT = Moment(worlds.catalog(), 1, worlds.START_MS)
LATER = Moment(worlds.catalog(), 2, worlds.START_MS + DAY_MS)


def learned(found: list[Outcome], tasks: tuple[Task, ...] = EVERY) -> Model:
    ticks = itertools.count()
    return training.train(
        found, worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1, size=SMALL), tasks=tasks,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    return learned(worlds.with_orders(worlds.outcomes(1400)))


@pytest.fixture(scope="module")
def predictor(model: Model) -> Predictor:
    return Predictor(model, "test", half=False)


def lesson_of(task: Task, found: list[Outcome]) -> Any:
    sorted_outcomes = outcomes.by_question(found, [task.question])
    rows = outcomes.read(sorted_outcomes, LEXICON, SMALL.sequence)
    return task.lesson(Evidence(sorted_outcomes[task.question], rows[task.question], worlds.catalog(), LEXICON))


def crowd() -> list[Snapshot]:
    """Customers of every kind of snapshot, one of whom nothing is known."""
    found = [outcome.seen for outcome in worlds.outcomes(40, seed=3)]
    kinds = itertools.cycle(kind for kind in _EVERY_KIND if kind != "send")
    found = [s if s.candidate else msgspec.structs.replace(s, kind=next(kinds)) for s in found]
    nobody = worlds.snapshot(9999, items=[])
    empty = np.full(len(nobody.features) // 4, np.nan, dtype="<f4").tobytes()
    return [*found, msgspec.structs.replace(nobody, features=empty, history=b"", edges=())]


every_task = pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)


@every_task
def test_each_snapshot_of_its_kinds_gets_one_record_and_no_other(task: Task, predictor: Predictor) -> None:
    everyone = crowd()
    records = list(predictor.scorers[task.name].predictions(predictor.encode(everyone), MOMENT))
    asked = [snapshot for snapshot in everyone if snapshot.kind in task.kinds]
    assert sorted(record.question_id for record in records) == sorted(snapshot.question_id for snapshot in asked)
    for record in records:
        assert record.prediction_id == prediction_id(task.name, record.question_id, "test")
        assert record.valid_until_ms > record.as_of_ms, "what is asked has an end"
        said = probabilities(record)
        assert said and all(0 <= probability <= 1 for probability in said.values())
        assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record
    again = predictor.scorers[task.name].predictions(predictor.encode(everyone[::-1]), LATER)
    assert {record.prediction_id for record in again} == {record.prediction_id for record in records}


@every_task
def test_a_batch_says_what_one_by_one_says(task: Task, predictor: Predictor) -> None:
    scorer, everyone = predictor.scorers[task.name], crowd()
    together = {p.question_id: p for p in scorer.predictions(predictor.encode(everyone), MOMENT)}
    for snapshot in everyone:
        for alone in scorer.predictions(predictor.encode([snapshot]), MOMENT):
            other = together[alone.question_id]
            assert probabilities(alone) == pytest.approx(probabilities(other), abs=1e-3)


@every_task
def test_a_saved_head_says_the_same(task: Task, model: Model, predictor: Predictor, tmp_path: Path) -> None:
    saved_model.save(model, tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model", half=False, tasks=EVERY)
    for one, two in zip(
        predictor.scorers[task.name].predictions(predictor.encode(crowd()), MOMENT),
        loaded.scorers[task.name].predictions(loaded.encode(crowd()), MOMENT),
        strict=True,
    ):
        assert probabilities(one) == probabilities(two)


@every_task
def test_no_customer_is_fitted_on_and_reported_and_every_row_has_its_label(task: Task) -> None:
    lesson = lesson_of(task, worlds.with_orders(worlds.outcomes(900)))
    assert lesson.missing is None
    customers = [set(lesson.rows.customers[getattr(lesson.split, stage)].tolist()) for stage in STAGES]
    assert all(customers)
    for one, two in itertools.combinations(customers, 2):
        assert not one & two
    embedding = torch.randn(len(lesson.rows), SMALL.hidden)
    model = Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, [task])
    lesson.begin(model, np.random.default_rng(0))
    assert torch.isfinite(lesson.loss(embedding, np.arange(len(lesson.rows))))
    none = np.zeros(0, dtype=np.int64)
    assert float(lesson.loss(embedding[:0], none)) == 0


@every_task
def test_without_labels_nothing_is_learned_and_it_is_said_why(task: Task) -> None:
    assert lesson_of(task, []).missing == "no outcomes"


@every_task
def test_it_learns_something_and_is_calibrated(task: Task, model: Model) -> None:
    report = model.report.heads[task.name]
    assert report.model.auc is not None
    assert report.model.auc > 0.6
    assert report.model.calibration_error is not None
    assert report.model.calibration_error < 0.3  # of some 40 rows, four a bin


@every_task
def test_its_topic_is_one_of_the_contract(task: Task) -> None:
    if task.topic is None:
        assert not task.kinds
        return
    if task in TASKS:
        assert topics.TOPICS[task.topic].record is not None
    assert task.topic == f"predictions.{task.name}"


def test_names_are_told_apart() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_a_task_of_a_file_of_its_own_is_published(model: Model) -> None:
    """Nothing but its entry among the tasks was needed: not in the trainer, the model directory or the encode role."""
    assert set(model.heads) == {task.name for task in EVERY}
    predictor = Predictor(model, "test", half=False)
    catalog = SimpleNamespace(current=(worlds.catalog(), 1))
    predict = Predictions(predictor, catalog, DecisionPolicy(), lambda: worlds.START_MS)
    later = [outcome for outcome in worlds.outcomes(400, seed=9) if outcome.head == "churn"]
    snapshots = [msgspec.structs.replace(outcome.seen, kind="event") for outcome in later]
    records = [record for record in predict(snapshots).records if record.topic == Stay.topic]
    assert [record.key for record in records] == [snapshot.customer_id.encode() for snapshot in snapshots]
    said = [msgspec.json.decode(record.value or b"", type=StayPrediction) for record in records]
    labels = np.array([1.0 - outcome.label for outcome in later])
    assert (metrics.auc(labels, np.array([record.probability for record in said])) or 0) > 0.7
    assert any(record.reason_codes for record in said)


def test_another_task_changes_what_no_other_one_is_fitted_to() -> None:
    found = worlds.outcomes(300)
    alone, beside = learned(found, TASKS), learned(found)
    for name, value in alone.heads["churn"].state_dict().items():
        if name.startswith("wide."):
            assert torch.equal(value, beside.heads["churn"].state_dict()[name]), name
