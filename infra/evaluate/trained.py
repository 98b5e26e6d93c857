"""Model directories to be judged, and what they say of snapshots; both are kept.

What is evaluated is what is served: training is :func:`streams.offline.training.train_on_outcomes`, answers come from
:class:`models.inference.Predictor` as the encode role loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from infra.evaluate.asked import Asked
from infra.evaluate.cache import code_of, kept, versions_of
from infra.evaluate.last_orders import last_orders
from infra.evaluate.purchases import SourceEvent
from infra.evaluate.replays import Replay
from infra.evaluate.statistics import Doubles
from models import saved_model
from models.encoder import SIZES
from models.inference import Predictor
from models.outcomes import FIT, matured, stage_of
from models.tasks.behaviour import BehaviourScorer, BehaviourTask
from models.training import TrainSettings
from schemas.errors import Stop
from schemas.features import SIZE
from schemas.snapshot import Outcome, Snapshot
from streams.core.config import CoreConfig
from streams.offline.training import build_vocabulary, train_on_outcomes

Say = Callable[[str], None]
Floats = npt.NDArray[np.float32]

_BATCH: Final = 512
_MASKED: Final = np.full(SIZE, np.nan, dtype="<f4").tobytes()


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is made from a replay."""

    until_ms: int
    """Outcomes whose horizon ended by then, and the words of events before it."""
    sends_before_ms: int | None = None
    """Redemptions are those of sends before this time, whenever their window ended, where a protocol says so."""
    least_orders: int = 0
    """Nothing of the last order of customers with so many is learned from, neither words nor outcomes; 0: of nobody."""
    seed: int = 0
    epochs: float = 3.0
    size: str = "demo"

    def outcomes(self, replay: Replay) -> list[Outcome]:
        """What the model learns from."""
        if self.least_orders:
            known = last_orders(replay.purchases, self.least_orders).earlier(replay.outcomes)
            return matured(known, self.until_ms)
        if self.sends_before_ms is None:
            return matured(replay.outcomes, self.until_ms)
        churn = [outcome for outcome in replay.outcomes if outcome.head == "churn"]
        sent = [outcome for outcome in replay.outcomes if outcome.head == "redemption"]
        return matured(churn, self.until_ms) + [o for o in sent if o.as_of_ms < self.sends_before_ms]

    def early(self, replay: Replay) -> list[Outcome]:
        """What was known by then of questions whose horizon had not ended."""
        found = replay.outcomes
        if self.least_orders:
            found = last_orders(replay.purchases, self.least_orders).earlier(found)
        return [outcome for outcome in found if outcome.resolved_ms <= self.until_ms < outcome.due_ms]

    def events(self, replay: Replay) -> list[SourceEvent]:
        """What words are counted in."""
        found = replay.events(self.until_ms)
        return list(last_orders(replay.purchases, self.least_orders).cut(found)) if self.least_orders else found


def trained(replay: Replay, plan: ModelPlan, folder: Path, say: Say) -> Path:
    """The model directory of a plan."""
    settings = TrainSettings(epochs=plan.epochs, seed=plan.seed, size=SIZES[plan.size])

    def make(fresh: Path) -> None:
        say(f"training for {plan.epochs:g} epochs, seed {plan.seed}")
        catalog = replay.catalog()
        card = train_on_outcomes(
            plan.outcomes(replay),
            catalog,
            build_vocabulary(plan.events(replay), catalog, CoreConfig()),
            fresh / "model",
            config=CoreConfig(),
            settings=settings,
            progress=lambda _share, _text: None,
            early=plan.early(replay),
        )
        say(f"trained {card.model_version}: {card.report.steps:,} steps")

    key = {
        "replay": replay.name,
        "plan": plan,
        "settings": settings,
        "code": code_of(
            "models", "streams/offline/training.py", "infra/evaluate/trained.py", "infra/evaluate/last_orders.py"
        ),
        "versions": versions_of("torch", "transformers", "tokenizers"),
    }
    return kept(folder, "models", key, make) / "model"


def not_fitted_on(snapshots: Sequence[Snapshot]) -> npt.NDArray[np.bool_]:
    """(N,) Whether the customer of each is one that no encoder is fitted on."""
    return np.array([stage_of(snapshot.customer_id) != FIT for snapshot in snapshots], dtype=np.bool_)


def randomised(directory: Path, seed: int, folder: Path) -> Path:
    """The same model with an encoder that knows nothing: the control of every claim about embeddings."""

    def make(fresh: Path) -> None:
        model, _ = saved_model.load(directory)
        randomise(model.encoder, seed)
        saved_model.save(model, fresh / "model")

    version = saved_model.read_card(directory).model_version
    key = {"model": version, "seed": seed, "code": code_of("models", "infra/evaluate/trained.py")}
    return kept(folder, "random", key, make) / "model"


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Draw every weight anew from a normal of the tensor's own mean and deviation, so that scales stay sound."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.numel() > 1:
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.copy_(noise * weight.std() + weight.mean())


@dataclass(frozen=True)
class Answers:
    """What a model says of snapshots, row by row."""

    embeddings: Floats
    """(N, H)"""
    churn_logits: Floats
    """(N,), calibrated."""


def answers(
    directory: Path,
    replay: Replay,
    snapshots: Sequence[Snapshot],
    rows: object,
    folder: Path,
    say: Say,
    *,
    masked: bool = False,
) -> Answers:
    """What the model in a directory says.

    Args:
        replay: that the snapshots are of.
        rows: names the snapshots in keys, e.g. how they were selected.
        masked: the numeric features are unknown to the model, so that embeddings hold what sequences alone say.
    """
    version = saved_model.read_card(directory).model_version

    def make(fresh: Path) -> None:
        say(f"encoding {len(snapshots):,} snapshots with {version}{', features masked' if masked else ''}")
        predictor = Predictor.load(directory, device="cpu", threads=1)
        predictor.know(replay.catalog())
        parts: list[tuple[Floats, Floats]] = []
        for begin in range(0, len(snapshots), _BATCH):
            batch = list(snapshots[begin : begin + _BATCH])
            if masked:
                batch = [msgspec.structs.replace(snapshot, features=_MASKED) for snapshot in batch]
            encoded = predictor.encode(batch)
            parts.append((encoded.embeddings, predictor.churn(encoded).logits))
        np.savez(
            fresh / "answers.npz",
            embeddings=np.concatenate([embeddings for embeddings, _ in parts]),
            churn_logits=np.concatenate([logits for _, logits in parts]),
        )

    key: dict[str, Any] = {
        "model": version,
        "rows": (replay.name, rows),
        "count": len(snapshots),
        "masked": masked,
        "code": code_of("models", "schemas", "infra/evaluate/trained.py"),
    }
    with np.load(kept(folder, "answers", key, make) / "answers.npz") as stored:
        return Answers(stored["embeddings"], stored["churn_logits"])


def curves(
    directory: Path, replay: Replay, snapshots: Sequence[Snapshot], rows: object, folder: Path, say: Say
) -> dict[str, Doubles]:
    """What the model in a directory says of when events come: event → :func:`models.survival.survival`, (N, BINS + 1).

    Args:
        rows: as in :func:`answers`.

    Raises:
        Stop: the model has not learned behaviour.
    """
    card = saved_model.read_card(directory)
    version = card.model_version
    if BehaviourTask.name not in card.tasks:
        raise Stop(
            f"{version} has not learned behaviour: {card.report.left_out.get(BehaviourTask.name, 'no outcomes')}"
        )

    def make(fresh: Path) -> None:
        say(f"encoding {len(snapshots):,} snapshots with {version}")
        predictor = Predictor.load(directory, device="cpu", threads=1)
        predictor.know(replay.catalog())
        scorer = predictor.scorers[BehaviourTask.name]
        assert isinstance(scorer, BehaviourScorer)
        parts = [
            scorer(predictor.encode(snapshots[begin : begin + _BATCH])).curves
            for begin in range(0, len(snapshots), _BATCH)
        ]
        whole = {event: np.concatenate([part[event] for part in parts]) for event in parts[0]}
        np.savez(fresh / "curves.npz", allow_pickle=False, **whole)

    key: dict[str, Any] = {
        "model": version,
        "rows": (replay.name, rows),
        "count": len(snapshots),
        "code": code_of("models", "schemas", "infra/evaluate/trained.py"),
    }
    with np.load(kept(folder, "curves", key, make) / "curves.npz") as stored:
        return {event: stored[event] for event in stored.files}


def embeddings(directory: Path, replay: Replay, asked: Mapping[str, Asked], folder: Path, say: Say) -> list[Floats]:
    """Embeddings of every group of rows, in their order.

    Args:
        replay: that the rows are of.
        asked: by the group's name.
    """
    return [
        answers(
            directory, replay, rows.snapshots, (name, int(rows.as_of_ms[0]), int(rows.as_of_ms[-1])), folder, say
        ).embeddings
        for name, rows in asked.items()
    ]
