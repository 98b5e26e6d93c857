from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load, save
from support import model_worlds as worlds

from models import saved_model, tokenizer
from models.encoder import EncoderSize, default_config
from models.heads import Head
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.task import Task
from models.tasks import TASKS
from models.tasks.churn import ChurnTask
from schemas.errors import ConfigError, ModelRefused, Stop

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))


def fresh(seed: int = 0, tasks: Sequence[Task] = TASKS) -> Model:
    torch.manual_seed(seed)
    return Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, tasks, horizon_days=14).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "one"
    saved_model.save(fresh(), directory)
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_a_saved_model_comes_back_the_same(saved: Path) -> None:
    before = Predictor(fresh(), "x", half=False)
    after = Predictor.load(saved, half=False)
    everyone = [worlds.snapshot(i, items=[i, i + 1]) for i in range(5)]
    assert np.array_equal(before.encode(everyone).embeddings, after.encode(everyone).embeddings)
    assert after.horizon_days == 14
    assert after.version == saved_model.read_card(saved).model_version
    assert sorted(os.listdir(saved)) == sorted([*saved_model.HASHED, saved_model.CARD_FILE, "README.md"])


def test_equal_content_has_an_equal_version_and_other_content_another(saved: Path, tmp_path: Path) -> None:
    version = saved_model.read_card(saved).model_version
    assert saved_model.save(fresh(), tmp_path / "again").model_version == version
    assert saved_model.save(fresh(seed=1), tmp_path / "other").model_version != version


def test_a_model_of_one_task_is_asked_of_no_other(tmp_path: Path) -> None:
    card = saved_model.save(fresh(tasks=[ChurnTask()]), tmp_path / "one")
    assert card.tasks == ("churn",)
    assert set(Predictor.load(tmp_path / "one", half=False).scorers) == {"churn"}


def test_a_task_that_the_program_does_not_know_is_refused(saved: Path) -> None:
    with pytest.raises(ModelRefused, match=r"has learned redemption, .*and this program knows churn; train it again"):
        saved_model.load(saved, [ChurnTask()])


def test_the_tasks_are_a_part_of_the_version(copied: Path) -> None:
    path = copied / saved_model.CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tasks": ["churn"]}))
    with pytest.raises(ModelRefused, match="names a version"):
        saved_model.load(copied)


def test_transformers_reads_the_body_and_finds_no_words(saved: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    body = AutoModel.from_pretrained(saved)
    mine, _ = saved_model.load(saved)
    for name, value in mine.encoder.body.state_dict().items():
        assert torch.equal(value, body.state_dict()[name])
    ours = set(mine.vocabulary.names) - set(tokenizer.SPECIALS)
    assert not ours & AutoTokenizer.from_pretrained(saved).get_vocab().keys(), "it would make ids that the body lacks"


def test_the_readme_says_what_the_model_is(saved: Path) -> None:
    _, front, text = (saved / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["library_name"] == "pulsegraph" and said["pipeline_tag"] == "feature-extraction"
    card = saved_model.read_card(saved)
    assert text.startswith(f"# pulsegraph {card.model_version}\n")
    assert ", ".join(card.tasks) in text and "| horizon of churn | 14 days |" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    known: dict[str, Any] = {"snapshots": [worlds.snapshot(customer) for customer in range(3)]}
    exec(code.replace("this folder", str(saved)), known)
    assert known["embeddings"].shape == (3, 32)


def test_saving_over_a_model_replaces_it_and_leaves_nothing_behind(copied: Path) -> None:
    card = saved_model.save(fresh(seed=2), copied)
    assert saved_model.load(copied)[1].model_version == card.model_version
    assert os.listdir(copied.parent) == ["model"]


def test_a_directory_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no model directory"):
        saved_model.save(fresh(), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_save_leaves_the_old_model(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = saved_model.read_card(copied).model_version

    def full(*_: object, **__: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_model, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        saved_model.save(fresh(seed=3), copied)
    assert saved_model.load(copied)[1].model_version == version
    assert os.listdir(copied.parent) == ["model"]


def resealed(directory: Path, **changes: object) -> None:
    """Write the card again with hashes and version that fit, so that the check behind the hashes is reached."""
    import hashlib

    card = json.loads((directory / saved_model.CARD_FILE).read_text()) | changes
    if "files" not in changes:
        names = [name for name in saved_model.HASHED if (directory / name).exists()]
        card["files"] = {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in names}
    if "model_version" not in changes:
        size = SequenceSize(**card["sequence"])
        card["model_version"] = saved_model.content_version(card["files"], size, card["horizon_days"], card["tasks"])
    (directory / saved_model.CARD_FILE).write_text(json.dumps(card))


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        (directory / name).write_bytes(content)
        if name != saved_model.CARD_FILE:
            resealed(directory)

    return act


def flip_a_byte(name: str) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[-1] ^= 1
        (directory / name).write_bytes(bytes(content))

    return act


def other_inputs(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """The input layer's weights with a change, under a card that fits them."""

    def act(directory: Path) -> None:
        path = directory / saved_model.INPUT_FILE
        tensors = load(path.read_bytes())
        change(tensors)
        path.write_bytes(save(tensors))
        resealed(directory)

    return act


def other_sizes(sealed: bool = True, **changes: object) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        card = json.loads((directory / saved_model.CARD_FILE).read_text())
        sequence = card["sequence"] | changes
        if sealed:
            resealed(directory, sequence=sequence)
        else:
            resealed(directory, sequence=sequence, model_version=card["model_version"])

    return act


def truncate(directory: Path) -> None:
    path = directory / saved_model.ENCODER_FILE
    path.write_bytes(path.read_bytes()[:-100])
    resealed(directory)


def other_config(**changes: object) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        path = directory / saved_model.CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        resealed(directory)

    return act


def not_finite(directory: Path) -> None:
    model = fresh()
    churn = model.heads["churn"]
    assert isinstance(churn, Head)
    churn.wide.weight.fill_(float("nan"))
    saved_model.save(model, directory)


def other_tokenizer(directory: Path) -> None:
    built = tokenizer.Vocabulary(tokenizer.build({"item:1": 1}))
    (directory / tokenizer.VOCABULARY_FILE).write_text(built.json())
    resealed(directory)


def another_word(directory: Path) -> None:
    """As many rows, each with a word, but not the one that it was trained with."""
    path = directory / tokenizer.VOCABULARY_FILE
    said = path.read_text()
    path.write_text(said.replace('"item:1"', '"item:one"'))
    assert len(tokenizer.Vocabulary.load(directory)) == len(worlds.vocabulary())
    assert path.read_text() != said


def tokenizer_without_a_fixed_word(directory: Path) -> None:
    path = directory / tokenizer.VOCABULARY_FILE
    path.write_text(path.read_text().replace('"[LATE]"', '"[SOON]"'))
    resealed(directory)


def pickled_encoder(directory: Path) -> None:
    path = directory / saved_model.ENCODER_FILE
    path.unlink()
    torch.save({"a": torch.zeros(1)}, path)
    resealed(directory)


def a_pipe_for_weights(directory: Path) -> None:
    """Reading it would wait for ever."""
    (directory / saved_model.HEADS_FILE).unlink()
    os.mkfifo(directory / saved_model.HEADS_FILE)


def a_device_for_the_card(directory: Path) -> None:
    """Reading it would never end."""
    (directory / saved_model.CARD_FILE).unlink()
    (directory / saved_model.CARD_FILE).symlink_to("/dev/zero")


def a_directory_for_weights(directory: Path) -> None:
    (directory / saved_model.HEADS_FILE).unlink()
    (directory / saved_model.HEADS_FILE).mkdir()


BARE = json.dumps({"format_version": saved_model.FORMAT_VERSION}).encode()
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing there": (lambda d: shutil.rmtree(d), "cannot be read"),
    "no card": (lambda d: (d / saved_model.CARD_FILE).unlink(), "cannot be read"),
    "card is no JSON": (write(saved_model.CARD_FILE, b"{"), "damaged"),
    "card is a list": (write(saved_model.CARD_FILE, b"[]"), "damaged"),
    "card is binary": (write(saved_model.CARD_FILE, b"\xff\x00"), "damaged"),
    "card lacks fields": (write(saved_model.CARD_FILE, BARE), "damaged"),
    "another format": (lambda d: resealed(d, format_version=99), "format 99"),
    "other features": (lambda d: resealed(d, feature_names=["a"]), "other features"),
    "other cross features": (lambda d: resealed(d, cross_names=["a"]), "other features"),
    "absurd horizon": (lambda d: resealed(d, horizon_days=0), "horizon"),
    "version not of the content": (lambda d: resealed(d, model_version="pg-0"), "version"),
    "a path in the card": (lambda d: resealed(d, files={"../../etc/passwd": "0"}), "exactly"),
    "a flipped byte": (flip_a_byte(saved_model.ENCODER_FILE), "sha256"),
    "a flipped byte of the input layer": (flip_a_byte(saved_model.INPUT_FILE), "sha256"),
    "no input layer": (lambda d: (d / saved_model.INPUT_FILE).unlink(), "cannot be read"),
    "an input layer of other width": (other_inputs(lambda t: t.update(waves=torch.zeros(3, 4))), "does not fit"),
    "an input layer that lacks ranks": (other_inputs(lambda t: t.pop("ranks.weight")), "does not fit"),
    "an input layer of more": (other_inputs(lambda t: t.update(more=torch.zeros(1))), "does not fit"),
    "an input layer that is not finite": (other_inputs(lambda t: t["mean"].fill_(float("inf"))), "not finite in mean"),
    "longer sequences": (other_sizes(recent=13), "no encoder that transformers knows"),
    "sequences that the version does not tell of": (other_sizes(False, recent=11, history=7), "names a version"),
    "shorter sequences": (other_sizes(recent=11), "does not fit"),
    "sequences of less than nothing": (other_sizes(history=-1), "says sequences of"),
    "sequences past a byte": (other_sizes(graph=256), "says sequences of"),
    "sequences of text": (other_sizes(graph="8"), "damaged"),
    "no weights": (lambda d: (d / saved_model.ENCODER_FILE).unlink(), "cannot be read"),
    "a directory for weights": (a_directory_for_weights, "cannot be read"),
    "a pipe for weights": (a_pipe_for_weights, "it is no file"),
    "a device for the card": (a_device_for_the_card, "it is no file"),
    "truncated weights": (truncate, "not a safetensors file"),
    "a pickle for weights": (pickled_encoder, "not a safetensors file"),
    "empty weights": (write(saved_model.HEADS_FILE, b""), "not a safetensors file"),
    "weights that are not finite": (not_finite, "not finite"),
    "other shapes": (other_config(intermediate_size=48), "does not fit"),
    "more layers": (other_config(num_hidden_layers=2), "does not fit"),
    "more memory than there is": (
        other_config(hidden_size=1 << 20, intermediate_size=1 << 22, vocab_size=1 << 24), "does not fit the weights",
    ),
    "more layers than can be built": (other_config(num_hidden_layers=10**9), "more than 1000 layers"),
    "unknown architecture": (other_config(model_type="no-such-model"), "no encoder"),
    "heads that do not divide": (other_config(num_attention_heads=5), "no encoder"),
    "config of another vocabulary": (other_config(vocab_size=7), "does not fit"),
    "config is no JSON": (write(saved_model.CONFIG_FILE, b"nonsense"), "no encoder"),
    "tokeniser is no JSON": (write(tokenizer.VOCABULARY_FILE, b"nonsense"), "not a tokeniser"),
    "another tokeniser": (another_word, "sha256"),
    "a tokeniser of another size": (other_tokenizer, "does not fit"),
    "a tokeniser that lacks a fixed word": (tokenizer_without_a_fixed_word, r"lacks \[LATE\]"),
    "a card of the format before": (
        lambda d: resealed(d, format_version=5), "has format 5, this program reads 6; train",
    ),
    "a card of a format long ago": (lambda d: resealed(d, format_version=1), "format 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_directories_are_refused_with_a_remedy(copied: Path, name: str) -> None:
    damage, message = BROKEN[name]
    damage(copied)
    with pytest.raises(ModelRefused, match=message) as refused:
        saved_model.load(copied)
    assert isinstance(refused.value, Stop)
    assert "train" in str(refused.value), "it says what to do"


def test_code_named_in_a_config_is_not_run(copied: Path) -> None:
    other_config(auto_map={"AutoModel": "evil.py--Evil"}, trust_remote_code=True)(copied)
    assert isinstance(saved_model.load(copied)[0], Model)


def test_the_card_survives_its_codec(saved: Path) -> None:
    card = saved_model.read_card(saved)
    assert msgspec.json.decode(msgspec.json.encode(card), type=saved_model.Card) == card
