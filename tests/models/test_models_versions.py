"""A model directory of several models: whoever reads finds a whole one, whatever is being written."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest
from support import model_worlds as worlds
from support.small_model import save_small_model, save_small_version, small_model

from models import saved_model, versions
from models.model import TrainingReport
from models.tokenizer import Vocabulary
from schemas.errors import ConfigError, ModelRefused


def test_each_model_has_a_folder_and_the_newest_is_current(tmp_path: Path) -> None:
    one = save_small_version(tmp_path / "models", 1)
    before = {path.name: path.read_bytes() for path in one.iterdir()}
    other = save_small_version(tmp_path / "models", 2)
    assert one != other
    assert {path.name: path.read_bytes() for path in one.iterdir()} == before, "nothing is written over"
    assert saved_model.read_card(tmp_path / "models").model_version == saved_model.read_card(other).model_version
    assert sorted(os.listdir(tmp_path / "models")) == sorted([one.name, other.name, versions.CURRENT])
    assert save_small_version(tmp_path / "models", 1) == one, "an equal model is the one that is there"
    assert saved_model.load(tmp_path / "models")[1] == saved_model.read_card(one)
    assert Vocabulary.load(tmp_path / "models").names == worlds.vocabulary().names


def test_the_folder_is_named_by_the_day_and_the_content(tmp_path: Path) -> None:
    model = small_model(worlds.vocabulary())
    model.report = TrainingReport(date="2026-11-27")
    card = saved_model.save_version(model, tmp_path)
    assert versions.current(tmp_path).name == f"2026-11-27-{card.model_version}"


def test_a_folder_that_is_a_model_is_a_directory_of_one(tmp_path: Path) -> None:
    folder = save_small_model(tmp_path / "model")
    assert versions.current(folder) == folder
    assert versions.directory_of(folder) == tmp_path, "versions lie beside it"
    assert versions.directory_of(tmp_path) == tmp_path
    newer = save_small_version(folder, 1)
    assert newer.parent == folder
    assert versions.directory_of(folder) == folder
    assert saved_model.read_card(folder).model_version == saved_model.read_card(newer).model_version


def test_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / versions.CURRENT).symlink_to("gone")
    with pytest.raises(ModelRefused, match=r"gone/pulsegraph\.json cannot be read"):
        saved_model.load(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no model directory"):
        save_small_version(tmp_path, 1)
    with pytest.raises(ConfigError, match="no model directory"):
        save_small_version(tmp_path / "thesis.txt", 1)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_save_that_fails_leaves_nothing_and_moves_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = save_small_version(tmp_path, 1)

    def full(*_: object, **__: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_model, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        save_small_version(tmp_path, 2)
    assert versions.current(tmp_path) == one
    assert sorted(os.listdir(tmp_path)) == sorted([one.name, versions.CURRENT])


def test_readers_never_find_a_folder_missing(tmp_path: Path) -> None:
    names = [save_small_version(tmp_path, seed).name for seed in (1, 2)]
    stopping, read = threading.Event(), []

    def look() -> None:
        while not stopping.is_set():
            read.append(saved_model.read_card(tmp_path).model_version)

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(300):
        versions.point(tmp_path, names[turn % 2])
    stopping.set()
    reader.join()
    assert set(read) <= {saved_model.read_card(tmp_path / name).model_version for name in names}
    assert len(read) > 10


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", ".hidden", "a\\b", "a\n", "x" * 129, "é"])
def test_a_name_that_leads_elsewhere_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no name of a model's folder"):
        versions.folder_of(tmp_path, name)


def test_a_model_is_copied_whole_and_once(tmp_path: Path) -> None:
    folder = save_small_version(tmp_path / "elsewhere", 1)
    there = versions.install(folder, tmp_path / "models")
    assert saved_model.load(there)[1] == saved_model.read_card(folder)
    assert saved_model.card_digest(there) == saved_model.card_digest(folder)
    assert versions.install(folder, tmp_path / "models") == there
    assert versions.install(there, tmp_path / "models") == there
    assert os.listdir(tmp_path / "models") == [folder.name]


def test_another_model_of_the_same_name_is_not_replaced(tmp_path: Path) -> None:
    one = save_small_model(tmp_path / "one" / "model")
    other = save_small_version(tmp_path / "other", 2).rename(tmp_path / "model")
    with pytest.raises(ConfigError, match="is another model than"):
        versions.install(one, tmp_path)
    assert saved_model.load(other)[1].model_version != saved_model.read_card(one).model_version


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_small_version(tmp_path / "elsewhere", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(ConfigError, match="No space"):
        versions.install(folder, tmp_path / "models")
    assert os.listdir(tmp_path / "models") == []


def test_the_canary_is_no_part_of_the_version(tmp_path: Path) -> None:
    plain = saved_model.read_card(save_small_model(tmp_path / "plain"))
    named = {**plain.files, saved_model.CANARY_FILE: "0" * 64}
    version = saved_model.content_version(named, plain.sequence, plain.horizon_days, plain.tasks)
    assert version == plain.model_version
    assert msgspec.structs.replace(plain, files=named) != plain
