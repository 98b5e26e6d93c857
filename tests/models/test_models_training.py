from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from support import model_worlds as worlds

from models import metrics, outcomes, saved_model, training
from models.encoder import EncoderSize, default_config
from models.inference import Predictor
from models.outcomes import is_held_out, matured
from schemas.errors import ConfigError
from schemas.snapshot import Label, Outcome

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, positions=64)


def run(found: list[Outcome], **settings):
    ticks = itertools.count()
    said: list[tuple[float, str]] = []
    plain = training.TrainSettings(budget_s=1e9, size=SMALL, max_steps=8)
    chosen = msgspec.structs.replace(plain, **settings)
    model = training.train(
        found, worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)), settings=chosen,
        progress=lambda fraction, message: said.append((fraction, message)),
    )  # fmt: skip
    return model, said


def labelled(outcome: Outcome, label: int, **changes: Any) -> Outcome:
    made: Outcome = msgspec.structs.replace(outcome, labels={outcome.head: label}, **changes)
    return made


@pytest.mark.slow
def test_training_beats_chance_and_says_how_far_it_is() -> None:
    model, said = run(worlds.outcomes(1500))
    assert [fraction for fraction, _ in said] == sorted(fraction for fraction, _ in said)
    assert said[0][0] == 0
    assert said[-1][0] == 1
    assert model.report.pretrain_steps == model.report.tune_steps == 8
    later = worlds.outcomes(600, seed=9)
    predictor = Predictor(model, "test", half=False)
    churn = [outcome for outcome in later if outcome.head == "churn"]
    found = predictor.encode([outcome.snapshot for outcome in churn])
    labels = np.array([float(outcome.label) for outcome in churn])
    assert (metrics.auc(labels, found.churn_logits.astype(float)) or 0) > 0.75
    assert metrics.calibration_error(labels, found.churn.astype(float)) < 0.08
    sent = [outcome for outcome in later if outcome.head == "redemption"]
    snapshots = [outcome.snapshot for outcome in sent]
    campaigns = predictor.campaigns(worlds.catalog(), ["0", "1", "2", "3"])
    scores = predictor.redemption(predictor.encode(snapshots), snapshots, campaigns).probability
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


def test_a_small_budget_is_kept() -> None:
    model, _ = run(worlds.outcomes(300), budget_s=0.0, max_steps=None)
    assert model.report.tune_steps == model.report.pretrain_steps == 0
    assert model.report.heads["churn"].gate == 0


def test_one_head_is_enough_and_none_is_refused() -> None:
    found = worlds.outcomes(400)
    model, _ = run([outcome for outcome in found if outcome.head == "churn"], max_steps=2)
    assert set(model.report.heads) == {"churn"}
    with pytest.raises(ConfigError, match=r"nothing to learn from: 0 of churn \(no outcomes\)"):
        run([])
    with pytest.raises(ConfigError, match="no outcome has the label 1"):
        run([outcome for outcome in found if outcome.label == 0])


def test_the_head_that_was_not_trained_is_reported_to_who_serves(tmp_path: Path) -> None:
    found = worlds.outcomes(400)
    nobody_redeemed = [labelled(o, 0) if o.head == "redemption" else o for o in found]
    model, _ = run(nobody_redeemed, max_steps=2)
    assert model.report.left_out == {"redemption": "no outcome has the label 1"}
    card = saved_model.save(model, tmp_path / "churn")
    assert card.heads == ("churn",)
    assert Predictor.load(tmp_path / "churn", half=False).heads == {"churn"}
    both, _ = run(found, max_steps=2)
    saved_model.save(both, tmp_path / "both")
    assert both.report.left_out == {}
    assert Predictor.load(tmp_path / "both", half=False).heads == {"churn", "redemption"}


@pytest.mark.parametrize("label", [None, 0, 1])
def test_a_head_is_left_out_where_all_or_one_label_is_held_out(label: int | None) -> None:
    found = worlds.outcomes(400)
    held, others = ([str(n) for n in range(100) if is_held_out(str(n)) is wanted] for wanted in (True, False))

    def moved(outcome: Outcome, number: int) -> Outcome:
        names = held if label is None or outcome.label == label else others
        snapshot = msgspec.structs.replace(outcome.snapshot, customer_id=names[number % 3])
        return msgspec.structs.replace(outcome, snapshot=snapshot)

    churn = [outcome for outcome in found if outcome.head == "churn"]
    few = [moved(o, n) for n, o in enumerate([o for o in found if o.head == "redemption"][:12])]
    assert {outcome.label for outcome in few} == {0, 1}
    model, _ = run(churn + few, max_steps=2)
    reason = "no outcomes to fit on" if label is None else f"no outcome to fit on has the label {label}"
    assert model.report.left_out == {"redemption": reason}
    assert model.trained == {"churn"}


def test_an_outcome_counts_when_it_has_ended_whatever_its_answer() -> None:
    (first, *_) = worlds.outcomes(1)
    until_ms = first.due_ms
    early = [labelled(first, label, due_ms=until_ms + 1, resolved_ms=0) for label in (0, 1)]
    ended = [labelled(first, label, resolved_ms=until_ms) for label in (0, 1)]
    assert matured(early + ended, until_ms) == ended


def test_outcomes_are_read_in_the_words_of_the_model() -> None:
    strange = worlds.snapshot(items=[1, worlds.ITEMS], kind="horizon")
    rows, _ = outcomes.read([worlds.outcome("o", strange, 1)], worlds.catalog(), worlds.vocabulary())
    (tokens,) = rows["churn"].tokens
    names = [worlds.vocabulary().names[row] for row in np.frombuffer(tokens, dtype="<u2")]
    assert names == [*worlds.sold(1), *(word if word != "item:40" else "[UNK]" for word in worlds.sold(worlds.ITEMS))]
    assert rows["churn"].labels.tolist() == [1]


def test_a_head_reads_its_own_label() -> None:
    (made,) = (outcome for outcome in worlds.outcomes(1) if outcome.head == "redemption")
    said: dict[str, Label] = {"churn": 0, "redemption": 1, "after_ms": 5, "bought": ("item:1",)}
    other = msgspec.structs.replace(made, labels=said)
    assert other.label == 1
    assert other.outcome_id == f"{made.question_id}:redemption"
    rows, candidates = outcomes.read([other], worlds.catalog(), worlds.vocabulary())
    assert (rows["redemption"].labels.tolist(), len(rows["churn"]), len(candidates)) == ([1], 0, 1)


def test_any_hugging_face_encoder_can_be_put_in_its_place() -> None:
    from transformers import DistilBertConfig

    config = DistilBertConfig(
        vocab_size=len(worlds.vocabulary()), dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64
    )
    ticks = itertools.count()
    model = training.train(
        worlds.outcomes(300), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)), config=config,
        settings=training.TrainSettings(budget_s=1e9, max_steps=2),
    )  # fmt: skip
    assert Predictor(model, "x", half=False).encode([worlds.snapshot()]).embeddings.shape == (1, 32)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        default_config(100, EncoderSize(hidden=30, heads=4))


def test_a_fifth_of_the_customers_is_held_out() -> None:
    held = sum(is_held_out(str(customer)) for customer in range(5000))
    assert 900 < held < 1100
