"""What may serve: each folder that may not has its error, and its reason for the metric."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.small_model import save_small_model, save_small_version

from models import saved_model
from models.saved_model import CANARY_FILE, CARD_FILE, ENCODER_FILE
from schemas.errors import CanaryFailed, ConfigError, ModelMissing, ModelRefused, ModelUnfit
from schemas.model_versions import ModelVersion
from streams.core.config import DAY_MS, CoreConfig
from streams.serving.model_loading import describe_version, load_announced, load_model
from streams.settings.schema import EncodeSettings, Settings


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_small_version(tmp_path_factory.mktemp("models"), 1)
    return path


def settings(directory: Path, horizon_days: int = 28, tasks: tuple[str, ...] = ()) -> Settings:
    return Settings(
        model_dir=directory,
        core=CoreConfig(churn_horizon_ms=horizon_days * DAY_MS),
        encode=EncodeSettings(device="cpu", required_tasks=tasks),
    )


def described(folder: Path) -> ModelVersion:
    return describe_version(folder, load_model(folder, settings(folder)))


def test_what_was_announced_is_loaded(saved: Path) -> None:
    version = described(saved)
    for directory in (saved.parent, saved):
        assert load_announced(version, settings(directory)).predictor.version == version.model_version


def test_a_model_of_before_may_serve_and_not_be_announced(tmp_path: Path) -> None:
    folder = save_small_model(tmp_path / "model")
    model = load_model(folder, settings(folder))
    assert model.canary is None
    with pytest.raises(ModelUnfit, match=r"has no canary\.json"):
        describe_version(folder, model)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (settings(Path(), horizon_days=14), "trained for a churn horizon of 28 days"),
        (settings(Path(), tasks=("churn", "luck")), "has not learned luck, which encode.required_tasks names"),
    ],
)
def test_a_model_that_does_not_fit_the_settings(saved: Path, wanted: Settings, message: str) -> None:
    with pytest.raises(ModelUnfit, match=message):
        load_model(saved, wanted)
    load_model(saved, settings(saved, tasks=("churn", "next-items")))


def cut(folder: Path) -> None:
    (folder / ENCODER_FILE).write_bytes((folder / ENCODER_FILE).read_bytes()[:-9])


def other_format(folder: Path) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | {"format_version": 4}))


def other_text(folder: Path) -> None:
    (folder / CARD_FILE).write_bytes((folder / CARD_FILE).read_bytes() + b"\n")


def no_canary(folder: Path) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    del card["files"][CANARY_FILE]
    (folder / CARD_FILE).write_text(json.dumps(card))


def other_canary(folder: Path) -> None:
    import hashlib

    said = json.loads((folder / CANARY_FILE).read_text())
    next(iter(said["said"]["churn"].values()))["probability"] += 0.1
    (folder / CANARY_FILE).write_text(json.dumps(said))
    card = json.loads((folder / CARD_FILE).read_text())
    card["files"][CANARY_FILE] = hashlib.sha256((folder / CANARY_FILE).read_bytes()).hexdigest()
    (folder / CARD_FILE).write_text(json.dumps(card))


#: What was done to the folder → whether the announcement is of the folder as it is then, the error, its message.
BAD: dict[str, tuple[Callable[[Path], object], bool, type[ModelRefused], str]] = {
    "gone": (shutil.rmtree, False, ModelMissing, "there is no folder .* put it there and publish it again"),
    "cut": (cut, True, ModelRefused, "sha256 differs"),
    "of another format": (other_format, True, ModelUnfit, "has format 4"),
    "another card": (other_text, False, ModelRefused, "not the model that was announced"),
    "another model": (lambda folder: None, False, ModelRefused, "which was announced"),
    "no canary": (no_canary, True, ModelUnfit, r"no canary\.json"),
    "a canary that fails": (other_canary, True, CanaryFailed, "of its canary"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_has_its_error(name: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    damage, is_of_it, error, message = BAD[name]
    version = msgspec.structs.replace(described(saved), folder="model")
    if name == "another model":
        version = msgspec.structs.replace(version, model_version="pg-0")
    damage(folder)
    if is_of_it:
        version = msgspec.structs.replace(version, card_sha256=saved_model.card_digest(folder))
    with pytest.raises(ModelRefused, match=message) as refused:
        load_announced(version, settings(tmp_path))
    assert type(refused.value) is error
    assert refused.value.reason in ("missing", "damaged", "unfit", "canary")


def test_a_name_that_leads_out_of_the_directory_is_refused(saved: Path, tmp_path: Path) -> None:
    version = msgspec.structs.replace(described(saved), folder=f"../{saved.parent.name}/{saved.name}")
    with pytest.raises(ConfigError, match="no name of a model's folder"):
        load_announced(version, settings(tmp_path))
