"""Training that goes on from a model, and what a model's card says of its training."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from support import model_worlds as worlds
from support.small_model import save_small_model

from models import saved_model, tokenizer, training
from models.continued import Base, load_base, take_over
from models.encoder import SIZES, EncoderSize
from models.model import Model
from models.pretrained import PretrainedBody
from models.sequence import SequenceSize
from models.tasks import TASKS
from models.tokenizer import Vocabulary
from schemas.errors import ConfigError, ModelRefused

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))


def trained(seed: int = 0, **said: Any) -> Model:
    ticks = itertools.count()
    settings = training.TrainSettings(epochs=1, size=SMALL, seed=seed, threads=1)
    return training.train(
        worlds.outcomes(300), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=settings, **said,
    )  # fmt: skip


def other_vocabulary() -> Vocabulary:
    counts = {"item:new": 99, "item:3": 50, "cat:soap": 7, "evt:purchase": 1, "dark": 4, "item:0": 1}
    return Vocabulary(tokenizer.build(counts, max_words=400))


def test_words_are_matched_by_word_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    base = load_base(save_small_model(tmp_path / "base"))
    before = base.model.encoder
    model = Model(before.config, other_vocabulary(), before.size, TASKS)
    fresh = model.encoder.words().weight.detach().clone()
    known = take_over(model, base)
    assert 5 < known < len(model.vocabulary)
    for row, name in enumerate(model.vocabulary.names):
        old = base.model.vocabulary.row(name)
        expected = fresh[row] if old is None else before.words().weight[old]
        assert torch.equal(model.encoder.words().weight[row], expected), name
    for name, weight in model.encoder.state_dict().items():
        if name != "input.words.weight":
            assert torch.equal(weight, before.state_dict()[name]), name


def test_training_goes_on_where_the_base_stood() -> None:
    base = trained()
    fresh, gone_on = trained(seed=1), trained(seed=1, base=Base(base, "pg-base"))
    name = "encoder.layer.0.output.dense.weight"
    now, before, other = (model.encoder.body.state_dict()[name] for model in (gone_on, base, fresh))
    assert 0 < (now - before).abs().mean() < (other - before).abs().mean() / 2
    assert gone_on.report.base == "pg-base"
    assert torch.equal(gone_on.encoder.input.mean, base.encoder.input.mean)


def test_a_base_of_another_size_or_format_is_refused(tmp_path: Path) -> None:
    folder = save_small_model(tmp_path / "base")
    with pytest.raises(
        ConfigError, match=r"is 32 wide with 1 layers and 12 \+ 6 \+ 8 positions, --size asks for 64, 2"
    ):
        load_base(folder, SIZES["demo"])
    assert load_base(folder, SMALL).version == saved_model.read_card(folder).model_version
    card = json.loads((folder / "pulsegraph.json").read_text())
    (folder / "pulsegraph.json").write_text(json.dumps(card | {"format_version": 1}))
    with pytest.raises(ModelRefused, match="has format 1, this program reads"):
        load_base(folder)


def test_a_body_and_a_base_are_one_too_many(tmp_path: Path) -> None:
    base = load_base(save_small_model(tmp_path / "base"))
    with pytest.raises(ConfigError, match="omit --encoder"):
        trained(base=base, body=PretrainedBody(base.model.encoder.config))


@pytest.mark.slow
def test_equal_inputs_and_seed_make_an_equal_model_whatever_the_day(tmp_path: Path) -> None:
    versions = []
    for day in ("2026-11-26", "2026-11-27"):
        torch.manual_seed(int(day[-2:]))
        np.random.seed(int(day[-2:]))
        versions.append(saved_model.save(trained(date=day, source="a test"), tmp_path / day).model_version)
    assert versions[0] == versions[1]
    other = saved_model.save(trained(seed=1), tmp_path / "other").model_version
    assert other != versions[0]


def test_the_card_says_what_was_done(tmp_path: Path) -> None:
    saved_model.save(trained(date="2026-11-27", source="a made-up world"), tmp_path / "model")
    report = saved_model.read_card(tmp_path / "model").report
    assert (report.date, report.device, report.seed, report.base) == ("2026-11-27", "cpu", 0, "")
    assert report.data.source == "a made-up world"
    found = worlds.outcomes(300)
    times = [outcome.as_of_ms for outcome in found]
    assert (report.data.outcomes, report.data.from_ms, report.data.until_ms) == (300, min(times), max(times))
    assert report.settings["size.sequence.recent"] == 12
    assert report.settings["learning_rate"] == training.TrainSettings().learning_rate
    assert report.settings["budget_s"] is None
    parts = set(msgspec.structs.asdict(training.TrainSettings())) - {"size"}
    assert parts < set(report.settings)
    assert report.steps > 0 and report.epochs == 1
    assert 0 <= (report.heads["churn"].embedding_auc or 0) <= 1
