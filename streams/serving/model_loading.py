"""From a folder to a model that may serve: whole, fit for this deployment, and right about its canary."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from models import canary, saved_model, versions
from models.canary import Canary
from models.inference import Predictor
from schemas.errors import ModelMissing, ModelRefused, ModelUnfit
from schemas.model_versions import ModelVersion
from streams.core.config import DAY_MS
from streams.settings.schema import Settings


class LoadedModel(NamedTuple):
    """A model, and the made-up customers it was tried with."""

    predictor: Predictor
    canary: Canary | None
    """None of a model of an earlier release, which has none."""


def load_model(folder: Path, settings: Settings) -> LoadedModel:
    """A model on the device of the encode role.

    Args:
        folder: of a model, or a model directory.

    Raises:
        ModelRefused: it is not whole, does not fit the settings, or says something else than in training.
        ConfigError: a device that is not there.
    """
    folder = versions.current(folder)  # once: the link may move between two files
    mine = settings.encode
    predictor = Predictor.load(
        folder, device=None if mine.device == "auto" else mine.device, threads=mine.threads or None
    )
    days, wanted_ms = predictor.horizon_days, settings.core.churn_horizon_ms
    if days * DAY_MS != wanted_ms:
        raise ModelUnfit(
            f"the model in {folder} was trained for a churn horizon of {days} days, and core.churn_horizon_ms is "
            f"{wanted_ms}: set it to {days * DAY_MS}, or train another model with `pulsegraph train`"
        )
    lacking = sorted(set(mine.required_tasks) - predictor.scorers.keys())
    if lacking:
        raise ModelUnfit(
            f"the model in {folder} has not learned {', '.join(lacking)}, which encode.required_tasks names: train "
            "another model with `pulsegraph train`, or take it off the setting"
        )
    card = saved_model.read_card(folder)
    if saved_model.CANARY_FILE not in card.files:
        return LoadedModel(predictor, None)
    tried = canary.read(folder, card)
    canary.check(predictor, tried)
    return LoadedModel(predictor, tried)


def describe_version(folder: Path, model: LoadedModel) -> ModelVersion:
    """A loaded model, as it is announced.

    Raises:
        ModelRefused: it has no canary, or its folder's name cannot be announced.
    """
    if model.canary is None:
        raise ModelUnfit(f"{folder} has no {saved_model.CANARY_FILE}; {saved_model.AGAIN}")
    return ModelVersion(
        model_version=model.predictor.version, folder=folder.name, card_sha256=saved_model.card_digest(folder)
    )


def load_announced(version: ModelVersion, settings: Settings) -> LoadedModel:
    """The model that was announced, from this machine's model directory.

    Raises:
        ModelRefused: it is not there, not the same, or as :func:`load_model` says.
        ConfigError: a device that is not there.
    """
    folder = versions.folder_of(versions.directory_of(settings.model_dir), version.folder)
    if not folder.is_dir():
        raise ModelMissing(
            f"model {version.model_version} was announced, and there is no folder {folder}: put it there and publish "
            "it again"
        )
    if saved_model.card_digest(folder) != version.card_sha256:
        raise ModelRefused(f"{folder} is not the model that was announced (sha256 of its card differs)")
    model = load_model(folder, settings)
    if describe_version(folder, model) != version:
        raise ModelRefused(f"{folder} is not model {version.model_version}, which was announced")
    return model
