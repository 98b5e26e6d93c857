"""The model that encode asks, and how another one takes its place between two batches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from models.inference import Predictor
from schemas.errors import ModelRefused
from schemas.model_versions import UNREADABLE, Announcement, ModelVersion, read_announcement
from schemas.snapshot import LIVE_KINDS, Snapshot
from streams.core.judge import SCORED
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.entity_embeddings import EntityFeed
from streams.serving.model_loading import LoadedModel, load_announced, load_model
from streams.serving.news import News
from streams.serving.predict import Predictions
from streams.serving.records import Predicted
from streams.settings.schema import Settings
from streams.telemetry.metrics import Metrics

logger: Final = logging.getLogger(__name__)

#: Why a model is refused: those of :class:`schemas.errors.ModelRefused`, and of what is none of them.
REASONS: Final = ("missing", "damaged", "unfit", "canary", "malformed", "error")

_Model = TypeVar("_Model")
Load = Callable[[ModelVersion], LoadedModel]
"""See :func:`streams.serving.model_loading.load_announced`."""


class ServedModel(NamedTuple):
    """A model with its memory of what was sent: what another model said is no measure of what is new."""

    predictor: Predictor
    predictions: Predictions
    feed: EmbeddingFeed
    news: News


class ModelSwap:
    """Asks the served model; loads what is announced beside it, and swaps.

    :meth:`announced` is called by the follower's thread. ``__call__`` and :meth:`swap` are the encoder's thread's: so a
    swap is between two batches, and a batch has one model.

    Args:
        serve: puts predictor and memory together.
        load: raises ModelRefused; anything else that it raises is refused as well.
        entities: sends entities' embeddings by the served model.
    """

    def __init__(
        self,
        serve: Callable[[Predictor], ServedModel],
        load: Load,
        entities: EntityFeed,
        first: Predictor,
        metrics: Metrics,
    ) -> None:
        self._serve = serve
        self._load = load
        self._entities = entities
        self._metrics = metrics
        self._newest = first.version
        """Of the models that were loaded."""
        self._fresh: deque[ServedModel] = deque(maxlen=1)
        self.served = serve(first)
        self._embedding = _how(first)
        _tell(metrics, first)

    def __call__(self, snapshots: list[Snapshot], erased: list[str]) -> Predicted:
        """See :class:`streams.serving.predict.Predictions`."""
        predicted = self.served.predictions(snapshots, erased)
        if (embedding := _how(self.served.predictor)) != self._embedding:  # a device has failed
            self._embedding = embedding
            self._metrics.embeds(*embedding)
        return predicted

    def hand_over(self) -> None:
        """See :meth:`streams.serving.predict.Predictions.hand_over`."""
        self.served.predictions.hand_over()

    def announced(self, value: bytes) -> None:
        """Load what a record says, and hold it ready. What is refused is logged and counted; the old one serves."""
        announcement = _read(value, self._metrics)
        if announcement is None or announcement.serve.model_version == self._newest:
            return
        fresh = _or_refused(announcement.serve, self._ready, self._metrics)
        if fresh is not None:
            self._newest = fresh.predictor.version
            self._fresh.append(fresh)

    def _ready(self, version: ModelVersion) -> ServedModel:
        """A model that has answered once with the catalog as it is, so that its first batch finds everything made."""
        loaded = self._load(version)
        fresh = self._serve(loaded.predictor)
        if loaded.canary is not None:
            fresh.predictions(loaded.canary.snapshots)
            fresh.predictions.hand_over()
        return fresh

    @property
    def due(self) -> bool:
        """Whether a model is ready to take over."""
        return bool(self._fresh)

    def swap(self) -> None:
        """Serve the model that is ready, if any is."""
        if not self._fresh:
            return
        before, self.served = self.served, self._fresh.popleft()
        self._entities.renew(self.served.predictor)
        self._embedding = _how(self.served.predictor)
        _tell(self._metrics, self.served.predictor)
        self._metrics.model_swaps_total.inc()
        logger.warning(
            "model %s serves, in place of %s: %s",
            self.served.predictor.version,
            before.predictor.version,
            self.served.predictor.embed.name,
        )


def first_model(announced: bytes | None, settings: Settings, metrics: Metrics) -> Predictor:
    """The model to begin with: what was announced; where nothing was, or it cannot serve, the model directory's newest.

    Args:
        announced: value of the newest record, see :func:`streams.serving.announcements.newest_announcement`.

    Raises:
        ModelRefused: neither can be served.
        ConfigError: a device that is not there.
    """
    for reason in REASONS:  # a counter that appears with its first value is no increase
        metrics.refused_models_total.labels(reason=reason)
    if announced is not None:
        announcement = _read(announced, metrics)
        if announcement is not None:
            loaded = _or_refused(announcement.serve, lambda version: load_announced(version, settings), metrics)
            if loaded is not None:
                return loaded.predictor
        logger.warning("what was announced cannot be served: the model in %s serves", settings.model_dir)
    return load_model(settings.model_dir, settings).predictor


def _read(value: bytes, metrics: Metrics) -> Announcement | None:
    """A record of ``models``; None, logged and counted, where it is no announcement."""
    try:
        return read_announcement(value)
    except UNREADABLE as error:
        logger.error("a record of models is no announcement (%s): run `pulsegraph publish` again", error)
        metrics.refused_models_total.labels(reason="malformed").inc()
        return None


def _or_refused(version: ModelVersion, load: Callable[[ModelVersion], _Model], metrics: Metrics) -> _Model | None:
    """An announced model; None, logged and counted, where it cannot serve."""
    try:
        return load(version)
    except Exception as error:  # noqa: BLE001 - a model that serves must not end with one that does not
        reason = error.reason if isinstance(error, ModelRefused) else "error"
        logger.error("model %s was announced and is refused (%s): %s", version.model_version, reason, error)
        metrics.refused_models_total.labels(reason=reason).inc()
        return None


def _tell(metrics: Metrics, predictor: Predictor) -> None:
    """Which model serves, and what it reached in training."""
    reached: dict[tuple[str, str], float | None] = {}
    for head, kind in SCORED:
        if (trained := predictor.model.report.heads.get(head)) is not None:
            reached[head, kind] = (trained.live if kind in LIVE_KINDS else trained.model).auc_low
    metrics.serves(predictor.version, reached)
    metrics.embeds(*_how(predictor))


def _how(predictor: Predictor) -> tuple[str, str, str]:
    """Runtime, dtype and device of embeddings."""
    embed = predictor.embed
    return embed.runtime, str(embed.dtype).removeprefix("torch."), embed.device.type
