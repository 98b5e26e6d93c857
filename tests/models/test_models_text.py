"""Snapshots read as text, by a small encoder with a tokeniser of its own."""

from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support import model_worlds as worlds
from support.examples import examples
from support.sequences import WORDS, snapshots
from support.text_encoder import save_text_encoder, tokenizer

from models import saved_model, training
from models.encoder import EncoderSize
from models.inference import Predictor
from models.model import Model
from models.sequence import sequences_of
from models.tasks import TASKS
from models.text import SIZE, TextEncoder, TextReader, load_text_body
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot
from schemas.words import hash_of

NAMES = {hash_of(word): word for word in (*WORDS, *worlds.vocabulary().names)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved: Path = save_text_encoder(tmp_path_factory.mktemp("text"))
    return saved


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return fresh(folder)


def fresh(folder: Path) -> Model:
    body = load_text_body(str(folder))
    made = Model(body.config, worlds.vocabulary(), SIZE, TASKS).eval()
    made.encoder.body.load_state_dict(body.weights)
    return made


def embed(model: Model, many: list[Snapshot]) -> np.ndarray:
    return Predictor(model, "x", device="cpu", half=False).encode(many).embeddings


@functools.cache
def reader() -> TextReader:
    from transformers import BertConfig

    return TextReader(tokenizer(), BertConfig())


@settings(deadline=None, max_examples=examples(60))
@given(snapshots)
def test_every_kind_has_its_share_of_the_tokens(snapshot: Snapshot) -> None:
    text = reader().text(snapshot, NAMES)
    assert text.startswith("customer: as of ")
    (found,) = reader().ids([snapshot], NAMES)
    assert len(found) <= reader().most
    assert found[-1] == 3, "nothing was cut off"
    assert ("weight" in text) == any(block.edges and any(block.edges.values()) for block in snapshot.edges)


def test_names_and_ages_are_read() -> None:
    one = worlds.snapshot(items=[1])
    later = msgspec.structs.replace(one, as_of_ms=one.as_of_ms + 7 * worlds.DAY_MS)
    renamed = NAMES | {hash_of("item:1"): "item:jam"}
    assert "item jam" in reader().text(one, renamed)
    assert len({tuple(ids) for ids in (*reader().ids([one, later], NAMES), *reader().ids([one], renamed))}) == 3


def test_a_customer_is_read_alone_as_among_others(model: Model) -> None:
    many = [worlds.snapshot(items=list(range(count))) for count in (0, 1, 3, 12, 30)]
    together = embed(model, many)
    assert np.allclose(together, np.concatenate([embed(model, [one]) for one in many]), atol=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.full(5, 4.0), rel=1e-4)
    assert len(np.unique(together.round(4), axis=0)) == 5


def test_a_model_that_reads_is_trained_saved_and_loaded_without_the_folder(tmp_path: Path) -> None:
    folder = save_text_encoder(tmp_path / "text")
    ticks = itertools.count()
    body = load_text_body(str(folder))
    trained = training.train(
        worlds.outcomes(200), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)), body=body,
        settings=training.TrainSettings(epochs=1, size=EncoderSize(sequence=SIZE)),
    )  # fmt: skip
    assert isinstance(trained.encoder, TextEncoder)
    assert trained.encoder.remembered is None
    assert trained.report.encoder == "text"
    for name, weight in trained.encoder.body.state_dict().items():
        assert torch.equal(weight, body.weights[name]), "it is not trained"
    some = [worlds.snapshot(items=[1, 2]), worlds.snapshot(items=[7] * 9)]
    said = embed(trained, some)
    shutil.rmtree(folder)
    saved_model.save(trained, tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model", device="cpu", half=False)
    assert np.allclose(loaded.encode(some).embeddings, said, atol=1e-5)
    assert loaded.embed.name.startswith("torch")


def test_what_was_read_once_is_remembered_in_training(folder: Path) -> None:
    encoder = fresh(folder).encoder
    assert isinstance(encoder, TextEncoder)
    batch = encoder.read([worlds.snapshot(items=[at % 2]) for at in range(6)], worlds.vocabulary())
    plain = encoder(batch)
    encoder.remembered = {}
    encoder.train()
    assert torch.allclose(encoder(batch), plain, atol=1e-5)
    assert len(encoder.remembered) == 2
    assert torch.allclose(encoder(batch.take(np.array([5, 0]))), plain[[5, 0]], atol=1e-5)
    with pytest.raises(ValueError, match="own `read`"):
        encoder(sequences_of([worlds.snapshot()], worlds.vocabulary(), SIZE))


def test_further_losses_have_nothing_to_train(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a text encoder is not trained"):
        training.train(
            worlds.outcomes(60), worlds.catalog(), worlds.vocabulary(), clock=lambda: 0.0,
            settings=training.TrainSettings(masked=0.1), body=load_text_body(str(folder)),
        )  # fmt: skip


def test_what_cannot_be_read_with_is_refused(tmp_path: Path) -> None:
    folder = save_text_encoder(tmp_path / "few", vocab_size=100)
    with pytest.raises(ConfigError, match="more tokens than the encoder: get both from one place"):
        load_text_body(str(folder))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json that can be read"):
        load_text_body(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json that can be read"):
        load_text_body(str(folder))
