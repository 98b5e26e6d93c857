"""The canary: a model that says what it said in training passes, any other does not, and nobody real is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import model_worlds as worlds
from support.small_model import save_small_model, save_small_version

from models import canary, saved_model
from models.canary import Canary
from models.inference import Predictor
from models.saved_model import CANARY_FILE, CARD_FILE
from schemas.errors import CanaryFailed, ModelRefused
from streams.core.config import CoreConfig
from streams.offline.canary import made_up


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_small_version(tmp_path_factory.mktemp("models"), 1)
    return path


def tried(folder: Path) -> Canary:
    return canary.read(folder, saved_model.read_card(folder))


@pytest.mark.parametrize("half", [None, False, True])
def test_a_saved_model_passes(saved: Path, half: bool | None) -> None:
    canary.check(Predictor.load(saved, device="cpu", half=half), tried(saved))


def test_another_model_does_not(saved: Path, tmp_path: Path) -> None:
    other = save_small_version(tmp_path, 2)
    with pytest.raises(CanaryFailed, match="from that in training"):
        canary.check(Predictor.load(other, device="cpu", half=False), tried(saved))


def test_one_weight_of_a_head_is_noticed(saved: Path) -> None:
    predictor = Predictor.load(saved, device="cpu", half=False)
    head: Any = predictor.model.heads["churn"]
    head.wide.weight.data.mul_(1.2)
    with pytest.raises(CanaryFailed, match=r"\(churn, probability\) of its canary"):
        canary.check(predictor, tried(saved))


def test_every_task_that_publishes_speaks(saved: Path) -> None:
    found = tried(saved)
    learned = {task.name for task in Predictor.load(saved, device="cpu").model.tasks if task.topic}
    assert found.said.keys() == learned
    assert {snapshot.kind for snapshot in found.snapshots} >= {"event", "horizon", "send"}


def test_it_is_made_up_and_the_same_each_time() -> None:
    made, entries = made_up(worlds.vocabulary(), worlds.catalog(), CoreConfig())
    assert (made, entries) == made_up(worlds.vocabulary(), worlds.catalog(), CoreConfig())
    assert all(snapshot.customer_id.startswith("canary-") for snapshot in made)
    assert len(made) <= canary.MOST_SNAPSHOTS
    assert entries.items() <= worlds.catalog().items()
    assert made_up(worlds.vocabulary(), {}, CoreConfig())[0], "no catalog is needed"


def test_a_model_of_before_has_none(tmp_path: Path) -> None:
    folder = save_small_model(tmp_path / "model")
    with pytest.raises(ModelRefused, match=r"has no canary\.json; train it again"):
        tried(folder)


def changed(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said.update(fields)


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no snapshots": (changed(snapshots=[]), "0 snapshots"),
    "too many": (lambda said: said.update(snapshots=said["snapshots"] * 9), "snapshots"),
    "no list": (changed(snapshots=3), "cannot be read"),
    "another version": (lambda said: said["snapshots"][0].__setitem__(0, 1), "of version 1"),
    "columns that do not fit": (lambda said: said["snapshots"][0].__setitem__(9, "AAAA"), "features"),
    "no embeddings": (lambda said: said.pop("embeddings"), "cannot be read"),
}


def spoil(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    said = json.loads((folder / CANARY_FILE).read_text())
    change(said)
    (folder / CANARY_FILE).write_text(json.dumps(said))
    card = json.loads((folder / CARD_FILE).read_text())
    card["files"][CANARY_FILE] = hashlib.sha256((folder / CANARY_FILE).read_bytes()).hexdigest()
    (folder / CARD_FILE).write_text(json.dumps(card))


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_canary_is_refused(name: str, tmp_path: Path) -> None:
    folder = save_small_version(tmp_path, 1)
    change, message = SPOILT[name]
    spoil(folder, change)
    with pytest.raises(ModelRefused, match=message):
        tried(folder)


ELSEWHERE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "embeddings of another width": (lambda said: said.update(embeddings=[[1.0]] * len(said["embeddings"])), "size"),
    "too few embeddings": (lambda said: said["embeddings"].pop(), "size"),
    "rows of two lengths": (lambda said: said["embeddings"][0].pop(), "size"),
    "a task more": (lambda said: said["said"].update(luck={"a": {"probability": 0.5}}), "other things"),
    "a question less": (lambda said: said["said"]["churn"].popitem(), "other things"),
    "another probability": (lambda said: next(iter(said["said"]["churn"].values())).update(probability=2.0), "churn"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_canary_of_something_else_fails(name: str, tmp_path: Path) -> None:
    folder = save_small_version(tmp_path, 1)
    change, message = ELSEWHERE[name]
    spoil(folder, change)
    with pytest.raises(CanaryFailed, match=message):
        canary.check(Predictor.load(folder, device="cpu", half=False), tried(folder))


def test_a_canary_that_the_card_does_not_describe_is_refused(tmp_path: Path) -> None:
    folder = save_small_version(tmp_path, 1)
    (folder / CANARY_FILE).write_bytes((folder / CANARY_FILE).read_bytes() + b" ")
    with pytest.raises(ModelRefused, match="sha256 differs"):
        tried(folder)
