"""Probabilities as outcomes say them, before records and decisions are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from models.candidate_scorer import CandidateAnswers
from models.task import rounded
from models.tasks.redemption import RedemptionTask
from models.wide import Floats
from schemas.predictions import AppliedRecalibration, ChurnPrediction, Prediction, RedemptionPrediction
from schemas.snapshot import SnapshotKind
from streams.core.recalibration import MOST_LOGIT, Recalibration, sigmoid

Recalibrations = Mapping[tuple[str, str], Recalibration]
"""By head and kind of snapshot."""

_SENT: Final[SnapshotKind] = "send"
"""Kind that redemptions are judged of: what was sent tells of what could be."""


def recalibrated(head: str, prediction: Prediction, known: Recalibrations) -> Prediction:
    """The record with its probability recalibrated; as it is where nothing is known of its head and kind."""
    found = known.get((head, prediction.snapshot_kind))
    if found is None or not isinstance(prediction, ChurnPrediction | RedemptionPrediction):
        return prediction
    return msgspec.structs.replace(
        prediction,
        probability=rounded(found(prediction.probability)),
        recalibration=AppliedRecalibration(
            model_probability=prediction.probability,
            low_slope=round(found.low_slope, 6),
            high_slope=round(found.high_slope, 6),
            shift=round(found.shift, 6),
        ),
    )


def recalibrated_answers(
    answers: Mapping[str, CandidateAnswers], known: Recalibrations
) -> Mapping[str, CandidateAnswers]:
    """The same of what is said of campaigns, by task: redemptions."""
    name = RedemptionTask.name
    found = known.get((name, _SENT))
    if found is None or name not in answers:
        return answers
    return {**answers, name: dataclasses.replace(answers[name], probability=_all(found, answers[name].probability))}


def _all(found: Recalibration, probability: Floats) -> Floats:
    bounded = np.clip(probability.astype(np.float64), sigmoid(-MOST_LOGIT), sigmoid(MOST_LOGIT))
    logits = found.low_slope * np.log(bounded) - found.high_slope * np.log1p(-bounded) + found.shift
    return (1 / (1 + np.exp(-logits))).astype(np.float32)
