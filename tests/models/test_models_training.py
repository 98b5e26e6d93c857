from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from support import model_worlds as worlds
from support.snapshots import hashes

from models import metrics, outcomes, saved_model, training
from models.encoder import EncoderSize, default_config
from models.entities import WordRows
from models.future import futures
from models.inference import Predictor
from models.model import Model
from models.outcomes import FIT, GATE, REPORT, STOP, matured, stage_of
from models.pretrain import FutureHeads
from models.pretrained import PretrainedBody
from models.sequence import SequenceSize
from models.task import Evidence
from models.tasks import TASKS
from models.tasks.churn import ChurnTask
from models.tasks.redemption import RedemptionTask
from models.tuning import Lessons, Trainer
from schemas.errors import ConfigError
from schemas.snapshot import Label, Outcome

LEXICON = WordRows(worlds.vocabulary(), worlds.catalog())
SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))


def run(found: list[Outcome], **settings):
    ticks = itertools.count()
    said: list[tuple[float, str]] = []
    plain = training.TrainSettings(epochs=1, size=SMALL)
    chosen = msgspec.structs.replace(plain, **settings)
    model = training.train(
        found, worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)), settings=chosen,
        progress=lambda fraction, message: said.append((fraction, message)),
    )  # fmt: skip
    return model, said


def asked_of(found: list[Outcome], question: str, size: SequenceSize = SMALL.sequence) -> Evidence:
    sorted_outcomes = outcomes.by_question(found, [question])
    rows = outcomes.read(sorted_outcomes, LEXICON, size)
    return Evidence(sorted_outcomes[question], rows[question], worlds.catalog(), LEXICON)


def labelled(outcome: Outcome, label: int, **changes: Any) -> Outcome:
    made: Outcome = msgspec.structs.replace(outcome, labels={outcome.head: label}, **changes)
    return made


@pytest.mark.slow
def test_training_beats_chance_and_says_how_far_it_is() -> None:
    model, said = run(worlds.outcomes(1200), epochs=2)
    assert [fraction for fraction, _ in said] == sorted(fraction for fraction, _ in said)
    assert said[0][0] == 0
    assert said[-1][0] == 1
    assert (model.report.epochs, len(model.report.checks)) == (2, 4)
    assert model.report.steps % 2 == 0
    later = worlds.outcomes(600, seed=9)
    predictor = Predictor(model, "test", half=False)
    churn = [outcome for outcome in later if outcome.head == "churn"]
    found = predictor.encode([outcome.seen for outcome in churn])
    labels = np.array([float(outcome.label) for outcome in churn])
    assert (metrics.auc(labels, predictor.churn(found).logits.astype(float)) or 0) > 0.75
    assert metrics.calibration_error(labels, predictor.churn(found).probability.astype(float)) < 0.08
    sent = [outcome for outcome in later if outcome.head == "redemption"]
    snapshots = [outcome.seen for outcome in sent]
    campaigns = predictor.redemption.campaigns(worlds.catalog(), ["0", "1", "2", "3"])
    scores = predictor.redemption(predictor.encode(snapshots), campaigns).probability
    pick = [int(s.candidate.campaign_id) for s in snapshots if s.candidate]
    labels = np.array([float(outcome.label) for outcome in sent])
    assert (metrics.auc(labels, scores[np.arange(len(sent)), pick].astype(float)) or 0) > 0.75
    report = model.report.heads["churn"]
    assert report.model.log_loss is not None
    assert report.wide.log_loss is not None
    assert report.model.log_loss <= report.wide.log_loss + 1e-9, "the deep part never hurts where it is measured"


@pytest.mark.slow
def test_equal_inputs_in_another_order_train_an_equal_model() -> None:
    found = worlds.outcomes(400)
    one, _ = run(found)
    two, _ = run(found[::-1])
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


@pytest.mark.parametrize("budget_s", [0.5, 3.0])
def test_a_budget_that_ends_within_the_first_epoch_is_refused(budget_s: float) -> None:
    """The clock goes a second each time it is read."""
    with pytest.raises(ConfigError, match=rf"after {budget_s:g} s the encoder has seen \d+% .*more time \(--budget\)"):
        run(worlds.outcomes(400), budget_s=budget_s, batch=16)


def test_a_budget_that_ends_later_is_kept() -> None:
    found = worlds.outcomes(300)
    once, _ = run(found)
    looks_s = once.report.steps + 1  # the clock is read before every step and every epoch
    model, _ = run(found, epochs=100, budget_s=2.5 * looks_s)
    assert 1 <= model.report.epochs < 4


def test_less_than_an_epoch_is_enough_where_no_more_was_asked_for() -> None:
    model, _ = run(worlds.outcomes(400), epochs=0.5, batch=16)
    assert 0.5 <= model.report.epochs < 0.6


def test_one_head_is_enough_and_none_is_refused() -> None:
    found = worlds.outcomes(400)
    model, _ = run([outcome for outcome in found if outcome.head == "churn"])
    assert set(model.report.heads) == {"churn", "behaviour"}
    with pytest.raises(ConfigError, match=r"nothing to learn from: 0 of churn \(no outcomes\)"):
        run([])
    with pytest.raises(ConfigError, match="no outcome has the label 1"):
        run([labelled(outcome, 0) for outcome in found])


def test_the_head_that_was_not_trained_is_reported_to_who_serves(tmp_path: Path) -> None:
    found = worlds.outcomes(400)
    nobody_redeemed = [labelled(o, 0) if o.head == "redemption" else o for o in found]
    model, _ = run(nobody_redeemed)
    assert model.report.left_out["redemption"] == "no outcome has the label 1"
    card = saved_model.save(model, tmp_path / "churn")
    assert set(card.tasks) == {task.name for task in TASKS} - model.report.left_out.keys()
    assert set(Predictor.load(tmp_path / "churn", half=False).scorers) == set(card.tasks)
    both, _ = run(found)
    saved_model.save(both, tmp_path / "both")
    assert set(both.report.left_out) == {"next-items"}, "of these outcomes none says what was ordered"
    assert "redemption" in Predictor.load(tmp_path / "both", half=False).scorers


@pytest.mark.parametrize("label", [None, 0, 1])
def test_a_head_is_left_out_where_all_or_one_label_is_held_out(label: int | None) -> None:
    found = worlds.outcomes(400)
    held, others = ([str(n) for n in range(100) if (stage_of(str(n)) == FIT) is fitted] for fitted in (False, True))

    def moved(outcome: Outcome, number: int) -> Outcome:
        names = held if label is None or outcome.label == label else others
        name = names[number % 3]
        snapshot = msgspec.structs.replace(outcome.seen, customer_id=name)
        return msgspec.structs.replace(outcome, customer_id=name, snapshot=snapshot)

    churn = [outcome for outcome in found if outcome.head == "churn"]
    few = [moved(o, n) for n, o in enumerate([o for o in found if o.head == "redemption"][:12])]
    assert {outcome.label for outcome in few} == {0, 1}
    model, _ = run(churn + few)
    reason = "no outcomes to fit on" if label is None else f"no outcome to fit on has the label {label}"
    assert model.report.left_out["redemption"] == reason
    assert "churn" in model.heads and "redemption" not in model.heads


def test_an_outcome_counts_when_it_has_ended_whatever_its_answer() -> None:
    (first, *_) = worlds.outcomes(1)
    until_ms = first.due_ms
    early = [labelled(first, label, due_ms=until_ms + 1, resolved_ms=0) for label in (0, 1)]
    ended = [labelled(first, label, resolved_ms=until_ms) for label in (0, 1)]
    assert matured(early + ended, until_ms) == ended


def test_outcomes_are_read_in_the_words_of_the_model() -> None:
    strange = worlds.snapshot(items=[1, worlds.ITEMS], kind="horizon")
    size = SequenceSize(recent=9, history=0, graph=0)
    asked = asked_of([worlds.outcome("o", strange, 1)], "churn", size)
    newest_first = hashes(*worlds.sold(worlds.ITEMS), *worlds.sold(1))
    assert np.array_equal(asked.rows.sequences.words, LEXICON.rows(newest_first))
    assert asked.rows.sequences.word_rows is LEXICON
    assert ChurnTask().lesson(asked).labels.tolist() == [1]


def test_a_head_reads_its_own_label() -> None:
    (made,) = (outcome for outcome in worlds.outcomes(1) if outcome.head == "redemption")
    said: dict[str, Label] = {"churn": 0, "redemption": 1, "after_ms": 5, "bought": ("item:1",)}
    other = msgspec.structs.replace(made, labels=said)
    assert other.label == 1
    assert other.outcome_id == f"{made.question_id}:redemption"
    lesson = RedemptionTask().lesson(asked_of([other], "redemption"))
    assert (lesson.labels.tolist(), len(lesson.candidates)) == ([1], 1)
    assert len(asked_of([other], "churn").rows) == 0


def test_a_redemption_that_names_no_campaign_is_not_learned_from() -> None:
    sent = [outcome for outcome in worlds.outcomes(60) if outcome.head == "redemption"]
    nameless = msgspec.structs.replace(sent[0], snapshot=msgspec.structs.replace(sent[0].snapshot, candidate=None))
    lesson = RedemptionTask().lesson(asked_of([*sent[1:], nameless], "redemption"))
    assert np.isnan(lesson.labels).sum() == 1
    assert all(np.isfinite(lesson.labels[rows]).all() for rows in lesson.split[:4])


def test_any_hugging_face_encoder_can_be_put_in_its_place() -> None:
    from transformers import DistilBertConfig

    config = DistilBertConfig(vocab_size=1, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    ticks = itertools.count()
    model = training.train(
        worlds.outcomes(300), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        body=PretrainedBody(config), settings=training.TrainSettings(epochs=1, size=SMALL),
    )  # fmt: skip
    assert Predictor(model, "x", half=False).encode([worlds.snapshot()]).embeddings.shape == (1, 32)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        default_config(EncoderSize(hidden=30, heads=4))


def test_customers_are_dealt_out_to_the_stages() -> None:
    count = np.bincount([stage_of(str(customer)) for customer in range(5000)]) / 5000
    assert count == pytest.approx([0.6, 0.1, 0.2, 0.1], abs=0.02)


@pytest.mark.slow
def test_the_encoder_sees_no_row_of_a_later_stage() -> None:
    """Neither their labels nor what they hold; rows that are stopped at say only which check was best."""
    found = worlds.outcomes(400)

    def of_later(outcome: Outcome) -> bool:
        return stage_of(outcome.customer_id) in (GATE, REPORT)

    def otherwise(outcome: Outcome) -> Outcome:
        other = labelled(outcome, 1 - outcome.label)
        told = worlds.vector(events_total=1e6, orders_7d=-5.0)
        return msgspec.structs.replace(other, snapshot=msgspec.structs.replace(other.seen, features=told))

    found = [outcome for outcome in found if outcome.head == "churn"]
    one, _ = run(found)
    two, _ = run([otherwise(outcome) if of_later(outcome) else outcome for outcome in found])
    assert one.report.heads["churn"].model != two.report.heads["churn"].model
    for name, value in one.encoder.state_dict().items():
        assert torch.equal(value, two.encoder.state_dict()[name]), name
    three, _ = run([outcome if of_later(outcome) else labelled(outcome, 1 - outcome.label) for outcome in found])
    assert not torch.equal(one.encoder.words().weight, three.encoder.words().weight)


def test_without_customers_to_stop_at_the_last_weights_stay() -> None:
    found = [o for o in worlds.outcomes(400) if stage_of(o.customer_id) != STOP]
    model, _ = run(found, epochs=2)
    assert (model.report.epochs, model.report.checks) == (2, [])


def test_what_was_learned_at_the_best_check_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what came after it, when the loss on customers that are not fitted on had risen."""
    lesson = ChurnTask().lesson(asked_of(worlds.outcomes(300), "churn"))
    torch.manual_seed(0)
    model = Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, [ChurnTask()])
    generator = np.random.default_rng(0)
    layers = {"churn": lesson.begin(model, generator)}
    trainer = Trainer(model, [Lessons(lesson.rows, {"churn": lesson})], layers, generator)
    seen = []
    check = trainer._check

    def looked(epoch: float, *rest: Any) -> Any:
        seen.append((model.encoder.words().weight.detach().clone(), check(epoch, *rest)))
        return msgspec.structs.replace(seen[-1][1], loss=abs(epoch - 1.0))

    monkeypatch.setattr(trainer, "_check", looked)
    _, epochs, checks = trainer.learn(lambda epochs: epochs / 10, batch=32, rate=1e-2)
    assert [round(check.epoch) for check in checks[1::2]] == [1, 2, 3], "four without a gain end it"
    assert epochs == 3
    assert torch.equal(model.encoder.words().weight, seen[1][0])
    assert not model.training


def test_the_future_is_a_loss_where_it_is_known() -> None:
    asked = outcomes.by_question(worlds.outcomes(300), ["churn"])["churn"]
    ahead = futures(asked, [], worlds.vocabulary())
    rows = np.arange(len(asked))
    heads = FutureHeads(32, ahead, rows)
    embedding = torch.randn(len(asked), 32)
    losses = heads.losses(embedding, rows)
    assert len(losses) == 2
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses)
    unknown = np.flatnonzero(~ahead["item"].known & ~ahead["cat"].known)
    assert heads.losses(embedding[torch.from_numpy(unknown)], unknown) == []
    nothing = FutureHeads(32, futures([], [], worlds.vocabulary()), np.zeros(0, dtype=np.int64))
    assert all(torch.isfinite(weight).all() for weight in nothing.parameters())
