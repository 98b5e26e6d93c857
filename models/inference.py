"""From snapshots to predictions: what the encode role runs, synchronous and without state but for its caches.

A customer's result does not depend on who else is in the batch, beyond the last bits of a float: torch, which makes the
vectors of positions, sums in blocks of its own choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from models import precision, saved_model
from models.candidate_scorer import CandidateScorer
from models.customer_task import CustomerScorer
from models.embedding import Embedder
from models.model import Model
from models.snapshot_columns import check
from models.task import Encoded, Moment, Scorer, Task
from models.tasks import TASKS
from models.tasks.churn import ChurnTask
from models.tasks.redemption import RedemptionTask
from models.wide import Floats
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.predictions import Prediction
from schemas.snapshot import Snapshot
from schemas.words import hash_of

_Scorer = TypeVar("_Scorer", bound=Scorer)


class Predictor:
    """A loaded model, embedding on a device.

    Example:
        >>> predictor = Predictor.load(".cache/model")  # doctest: +SKIP
        >>> predictor.churn(predictor.encode([snapshot])).probability  # doctest: +SKIP
        array([0.07], dtype=float32)
    """

    def __init__(
        self,
        model: Model,
        version: str,
        *,
        device: str | torch.device | None = None,
        threads: int | None = None,
        half: bool | None = None,
        compiled: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            model: in evaluation mode; it belongs to the predictor from now on. The device has a copy of its encoder.
            version: what predictions name as ``model_version``.
            device: that embeds; CUDA where there is one, else the CPU, where absent.
            threads: threads of one operation on the CPU; torch's default where absent.
            half: bfloat16 in the encoder; where absent, if a short trial shows it faster and no less exact.
            compiled: whether the encoder in C may be used, see :mod:`models.native`.
            clock: seconds, for the trial.

        Raises:
            ConfigError: a device that is not there.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = model.eval().cpu()
        self.version = version
        self.horizon_days = model.horizon_days
        self.scorers: dict[str, Scorer] = {task.name: task.scorer(self.model, version) for task in model.tasks}
        """Of the tasks that the model has learned, by name."""
        self.embed: Embedder = precision.choose(
            model,
            _device(device),
            half=half,
            threads=threads or torch.get_num_threads(),
            clock=clock,
            compiled=compiled,
        )
        """Sequences to embeddings."""
        self.dtype = self.embed.dtype
        self._known: object = None
        model.table()

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str | torch.device | None = None,
        threads: int | None = None,
        half: bool | None = None,
        tasks: Sequence[Task] = TASKS,
    ) -> Predictor:
        """From a model directory; arguments as in the constructor.

        Args:
            tasks: see :func:`models.saved_model.load`.

        Raises:
            ModelRefused: the directory is not a whole model of ours; the message says what to do.
            ConfigError: a device that is not there.
        """
        model, card = saved_model.load(directory, tasks)
        return cls(model, card.model_version, device=device, threads=threads, half=half)

    def know(self, catalog: Mapping[str, CatalogEntry], version: object = None) -> None:
        """From now on, entities are what this catalog says.

        Args:
            catalog: ``kind:id`` -> entry.
            version: anything that changes when the catalog does; nothing is done where it is that of before.
        """
        if version is None or version != self._known:
            self._known = version
            self.model.know(catalog)
            self.model.table()

    @property
    def device(self) -> torch.device:
        """That embeds now."""
        return self.embed.device

    @property
    def named(self) -> Sequence[str]:
        """Words with a row of their own."""
        return self.model.vocabulary.names

    def entities(self, words: Sequence[str]) -> Floats:
        """Vectors of entities, named by :func:`models.entities.word_of`, scaled to length √H: (N, H)."""
        places = torch.from_numpy(self.model.word_rows.rows(b"".join(map(hash_of, words))))
        with torch.inference_mode():
            found = self.model.table()[places]
            found = torch.nn.functional.normalize(found, dim=-1) * math.sqrt(found.shape[1])
            vectors: Floats = found.cpu().numpy()
        return vectors

    def encode(self, snapshots: Sequence[Snapshot]) -> Encoded:
        """Embed customers; entities are as :meth:`know` was told.

        Raises:
            InvalidField: as in :func:`models.snapshot_columns.check`.
        """
        for snapshot in snapshots:
            check(snapshot)
        word_rows = self.model.word_rows
        batch = self.model.encoder.read(snapshots, word_rows)
        with torch.inference_mode():
            embedding = self.embed(batch)
        return Encoded(
            snapshots=snapshots,
            embeddings=embedding.numpy(),
            columns=batch.numbers,
            words=len(batch.words),
            unknown_words=int((~word_rows.known(batch.words.astype(np.int64))).sum()),
        )

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[tuple[Task, Prediction]]:
        """What every task says of a batch, task by task."""
        for task in self.model.tasks:
            for prediction in self.scorers[task.name].predictions(encoded, moment):
                yield task, prediction

    @property
    def churn(self) -> CustomerScorer:
        """The scorer of churn.

        Raises:
            KeyError: the model has not learned it; so below.
        """
        return self._scorer(ChurnTask.name, CustomerScorer)

    @property
    def redemption(self) -> CandidateScorer:
        """The scorer of redemption, which decisions are made with."""
        return self.candidate(RedemptionTask.name)

    def candidate(self, name: str) -> CandidateScorer:
        """The scorer of a task about what is sent."""
        return self._scorer(name, CandidateScorer)

    def _scorer(self, name: str, kind: type[_Scorer]) -> _Scorer:
        scorer = self.scorers[name]
        assert isinstance(scorer, kind)
        return scorer


def _device(wanted: str | torch.device | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {wanted!r} cannot be used ({error}); leave it out, or write cpu") from error
    return device
