"""Trained heads of candidates at work: customers against campaigns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from models.candidate_head import CandidateHead
from models.candidates import CROSS_NAMES, Candidates, named
from models.model import Model
from models.reasons import TOP, candidate_reasons
from models.task import Encoded, Moment, Scorer, Task, on_device
from models.wide import PLAIN, Floats, by_feature, typical
from schemas.catalog import CatalogEntry
from schemas.predictions import Prediction, Reason
from schemas.snapshot import Candidate, Snapshot

CACHED: Final = 32
"""Sets of candidates that are remembered: what runs now, and what the sends of a batch were of, which varies."""


class CandidateSets:
    """Sets of candidates as a model's heads share them, the newest ones remembered."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cached: dict[tuple[object, tuple[Candidate, ...]], Candidates] = {}

    def __call__(
        self, sent: Sequence[Candidate], catalog: Mapping[str, CatalogEntry], version: object = None
    ) -> Candidates:
        """Candidates ready to be scored.

        Args:
            sent: in the order of the scores' columns, as :func:`models.candidates.as_sent` has them.
            catalog: ``kind:id`` -> entry; of what it lacks only ids are known, and no text.
            version: anything hashable that changes when the catalog does; None: nothing is remembered.
        """
        key = (version, tuple(sent))
        found = self._cached.pop(key, None) if version is not None else None
        if found is None or found.word_rows is not self._model.word_rows:
            entries = [named(candidate, catalog) for candidate in sent]
            found = Candidates(entries, catalog, self._model.word_rows)
        if version is not None:
            if len(self._cached) >= CACHED:
                del self._cached[next(iter(self._cached))]
            self._cached[key] = found  # at the end: the one that is used most, of live decisions, has to stay
        return found


@dataclass(frozen=True)
class CandidateAnswers:
    """A batch of customers against a set of candidates."""

    probability: Floats
    """Calibrated, (B, C)."""
    customer: Floats
    """What each feature adds to the calibrated logit, (B, SIZE)."""
    cross: Floats
    """What each cross feature adds, (B, C, CROSS_SIZE), in the order of ``CROSS_NAMES``."""
    values: Floats
    """The cross features, raw, (B, C, CROSS_SIZE)."""


class CandidateScorer(Scorer):
    """See :meth:`models.task.Task.scorer`. By itself it publishes nothing: others ask it.

    Attributes:
        sets: what makes candidates ready.
    """

    def __init__(self, task: Task, model: Model, version: str) -> None:
        head = model.heads[task.name]
        assert isinstance(head, CandidateHead)
        self.task, self.version = task, version
        self.sets = CandidateSets(model)
        self._model, self._head = model, head
        self._typical = typical(head.wide.mean[:PLAIN].cpu().numpy())
        self._vectors: WeakKeyDictionary[Candidates, Tensor] = WeakKeyDictionary()

    def campaigns(self, catalog: Mapping[str, CatalogEntry], ids: Sequence[str], version: object = None) -> Candidates:
        """Campaigns ready to be scored, with the template and channel that the catalog names.

        Args:
            ids: in the order of the score's columns; one that the catalog lacks is a KeyError.
            version: as in :meth:`CandidateSets.__call__`, as is ``catalog``.
        """
        return self.sets([as_listed(catalog[f"campaign:{name}"]) for name in ids], catalog, version)

    def __call__(self, encoded: Encoded, candidates: Candidates, cross: Floats | None = None) -> CandidateAnswers:
        """Score every customer of a batch with every candidate.

        Args:
            cross: what ``candidates.cross`` says of these customers, where it is known already: (B, C, CROSS_SIZE).
        """
        if cross is None:
            cross = candidates.cross(encoded.snapshots)
        with torch.inference_mode():
            vectors = self._vectors.get(candidates)
            if vectors is None:
                table = self._model.table()
                vectors = self._head.tower(torch.from_numpy(candidates.words).to(table.device), table)
                self._vectors[candidates] = vectors
            tensors = on_device(self._model, encoded.embeddings, encoded.columns, cross)
            logits, own, pair = self._head(*tensors, vectors)
            scaled = (torch.sigmoid(logits), own * self._head.scale, pair * self._head.scale)
        probability, customer, crossed = (part.cpu().numpy() for part in scaled)
        assert crossed.shape[-1] == len(CROSS_NAMES)
        return CandidateAnswers(probability=probability, customer=by_feature(customer), cross=crossed, values=cross)

    def reasons(
        self, snapshot: Snapshot, answers: CandidateAnswers, row: int, column: int, top: int = TOP
    ) -> list[Reason]:
        """Why this probability: the customer at ``row``, the candidate at ``column``."""
        parts = answers.customer[row], answers.cross[row, column], answers.values[row, column]
        return candidate_reasons(snapshot, *parts, self._typical, top)

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterable[Prediction]:
        return ()


def as_listed(campaign: CatalogEntry) -> Candidate:
    """A campaign as a candidate, sent as the catalog says."""
    return Candidate(campaign.id, None, campaign.template_id, campaign.channel)
