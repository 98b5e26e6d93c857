"""The canary of a model: made-up customers, and what the model said of them where it was trained.

Hashes say that a folder is what was written. The canary says that this machine, with this release, its device and its
way to embed, gives the answers that were measured in training. Real customers have no place in it: a model outlives an
erasure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from models import saved_model
from models.inference import Predictor
from models.model import Model
from models.saved_model import CANARY_FILE, Card
from models.snapshot_columns import check as check_columns
from models.task import Moment
from schemas.catalog import CatalogEntry
from schemas.errors import CanaryFailed, InvalidField, ModelRefused
from schemas.predictions import probabilities
from schemas.snapshot import SNAPSHOT_VERSION, Snapshot

MOST_SNAPSHOTS: Final = 64
PROBABILITY_APART: Final = 2e-3
"""How far a probability may be from the one in training: twice what docs/design.md promises of replays."""
EMBEDDING_APART: Final = 1e-3
"""The same of embeddings, as cosine distance."""

Said = dict[str, dict[str, dict[str, float]]]
"""Task → question id → field of the record → probability."""


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """``canary.json``."""

    snapshots: list[Snapshot]
    catalog: dict[str, CatalogEntry]
    """By ``kind:id``: what the model knew of entities when it was asked."""
    embeddings: list[list[float]]
    """(B, H), in the order of the snapshots."""
    said: Said


_decode: Final = msgspec.json.Decoder(Canary).decode


def make(model: Model, snapshots: Sequence[Snapshot], catalog: Mapping[str, CatalogEntry]) -> bytes:
    """Content of ``canary.json``: what the model says on the CPU, in torch and float32.

    Args:
        model: trained; it is moved to the CPU.
        snapshots: at most :data:`MOST_SNAPSHOTS`.
    """
    assert 0 < len(snapshots) <= MOST_SNAPSHOTS
    predictor = Predictor(model, "canary", device="cpu", half=False, compiled=False)
    embeddings, said = _answers(predictor, snapshots, catalog)
    canary = Canary(
        snapshots=list(snapshots), catalog=dict(catalog), embeddings=np.round(embeddings, 5).tolist(), said=said
    )
    return msgspec.json.encode(canary)


def read(folder: Path, card: Card) -> Canary:
    """The canary of a model's folder.

    Raises:
        ModelRefused: there is none, or it is not what the card says, or none that this release can read.
    """
    raw = saved_model.read_file(folder, card, CANARY_FILE)
    try:
        canary: Canary = _decode(raw)
        if not 0 < len(canary.snapshots) <= MOST_SNAPSHOTS:
            raise ValueError(f"{len(canary.snapshots)} snapshots")
        for snapshot in canary.snapshots:
            if snapshot.version != SNAPSHOT_VERSION:
                raise ValueError(f"snapshots of version {snapshot.version}, not {SNAPSHOT_VERSION}")
            check_columns(snapshot)
    except (ValueError, RecursionError, InvalidField) as error:  # msgspec's errors are ValueErrors
        raise ModelRefused(f"{folder / CANARY_FILE} cannot be read ({error}); {saved_model.AGAIN}") from error
    return canary


def check(predictor: Predictor, canary: Canary) -> None:
    """Ask a loaded model about its canary. Afterwards it knows the canary's catalog, see :meth:`Predictor.know`.

    Raises:
        CanaryFailed: it says something else than in training.
    """
    embeddings, said = _answers(predictor, canary.snapshots, canary.catalog)
    expected = np.array(canary.embeddings, dtype=np.float32) if _even(canary.embeddings) else np.zeros((0, 0))
    if expected.shape != embeddings.shape:
        raise CanaryFailed(f"model {predictor.version} has embeddings of another size than its canary; {_LOOK}")
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(embeddings, axis=1)
    apart = float(np.max(1 - np.sum(expected * embeddings, axis=1) / np.maximum(lengths, 1e-12)))
    if not apart <= EMBEDDING_APART:
        raise CanaryFailed(f"an embedding of model {predictor.version} is {apart:.3g} from that in training; {_LOOK}")
    if _shape(said) != _shape(canary.said):
        raise CanaryFailed(f"model {predictor.version} says other things of its canary than in training; {_LOOK}")
    for task, questions in canary.said.items():
        for question_id, expected_of in questions.items():
            for name, probability in expected_of.items():
                found = said[task][question_id][name]
                if not abs(found - probability) <= PROBABILITY_APART:
                    raise CanaryFailed(
                        f"model {predictor.version} says {found:.6g} ({task}, {name}) of its canary, where it said "
                        f"{probability:.6g} in training; {_LOOK}"
                    )


_LOOK: Final = "it was trained by another release, or this machine computes it otherwise: train it again"


def _answers(
    predictor: Predictor, snapshots: Sequence[Snapshot], catalog: Mapping[str, CatalogEntry]
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], Said]:
    predictor.know(catalog)
    encoded = predictor.encode(snapshots)
    said: Said = {}
    for task, prediction in predictor.predictions(encoded, Moment(catalog, -1, 0)):
        said.setdefault(task.name, {})[prediction.question_id] = probabilities(prediction)
    return encoded.embeddings, said


def _even(rows: list[list[float]]) -> bool:
    return len({len(row) for row in rows}) == 1


def _shape(said: Said) -> dict[str, dict[str, list[str]]]:
    return {
        task: {question_id: sorted(found) for question_id, found in questions.items()}
        for task, questions in said.items()
    }
