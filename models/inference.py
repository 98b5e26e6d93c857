"""From snapshots to predictions: what the encode role runs, synchronous and without state but for its caches.

A customer's result does not depend on who else is in the batch, beyond the last bits of a float: torch, which makes the
vectors of positions, sums in blocks of its own choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from models import precision, saved_model
from models.candidates import CROSS_NAMES, Candidates
from models.embedding import Embedder
from models.model import Model
from models.reasons import TOP, churn_reasons, redemption_reasons
from models.sequence import sequences_of
from models.snapshot_columns import check
from models.tokenizer import UNK_ID
from models.wide import Floats, by_feature, typical
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.predictions import Reason
from schemas.snapshot import Head, Snapshot

CACHED_CANDIDATES: Final = 8


@dataclass(frozen=True)
class Encoded:
    """A batch of customers, row by row."""

    embeddings: Floats
    """(B, H) float32."""
    churn: Floats
    """Calibrated P(no activity within the horizon), (B,)."""
    churn_logits: Floats
    """(B,), calibrated."""
    contributions: Floats
    """What each feature adds to the calibrated churn logit, (B, SIZE); with ``base`` they sum to its wide part."""
    base: float
    """The wide part of a customer who is average in everything."""
    columns: Floats
    """Transformed features, (B, COLUMNS): the heads' other input."""
    words: int
    """Words that the encoder was shown."""
    unknown_words: int
    """Of those, how many have no row of their own."""

    def __len__(self) -> int:
        return len(self.churn)


@dataclass(frozen=True)
class Campaigns:
    """Candidates with their vectors; immutable, made by :meth:`Predictor.campaigns`."""

    candidates: Candidates
    vectors: Tensor
    """(C, TOWER)"""

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def ids(self) -> tuple[str, ...]:
        """Campaign of each column."""
        return tuple(entry.id for entry in self.candidates.campaigns)


@dataclass(frozen=True)
class Redemptions:
    """A batch of customers against a set of campaigns."""

    probability: Floats
    """Calibrated, (B, C)."""
    customer: Floats
    """What each feature adds to the calibrated logit, (B, SIZE)."""
    cross: Floats
    """What each cross feature adds, (B, C, CROSS_SIZE), in the order of ``CROSS_NAMES``."""


class Predictor:
    """A loaded model on a device.

    Example:
        >>> predictor = Predictor.load(".cache/model")  # doctest: +SKIP
        >>> predictor.encode([snapshot]).churn  # doctest: +SKIP
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
            model: in evaluation mode; it is moved to the device and belongs to the predictor from now on.
            version: what predictions name as ``model_version``.
            device: a torch device; CUDA where there is one, else the CPU, where absent.
            threads: threads of one operation on the CPU; torch's default where absent.
            half: bfloat16 in the encoder; where absent, if a short trial shows it faster and no less exact.
            compiled: whether the encoder in C may be used, see :mod:`models.native`.
            clock: seconds, for the trial.

        Raises:
            ConfigError: a device that is not there.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _device(device)
        self.model = model.eval().to(self.device)
        self.version = version
        self.horizon_days = model.horizon_days
        self.heads: frozenset[Head] = model.trained
        """Heads that were trained; what another says means nothing."""
        self._cached: dict[tuple[object, tuple[str, ...]], Campaigns] = {}
        wide = model.churn.wide
        self.typical = typical(wide.mean.cpu().numpy())
        """Feature values of the average customer, (SIZE,)."""
        self._base = float(wide.bias * model.churn.scale + model.churn.shift)
        self.embed: Embedder = precision.choose(
            model,
            self.device,
            half=half,
            threads=threads or torch.get_num_threads(),
            clock=clock,
            compiled=compiled,
        )
        """Sequences to embeddings."""
        self.dtype = self.embed.dtype

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str | torch.device | None = None,
        threads: int | None = None,
        half: bool | None = None,
    ) -> Predictor:
        """From a model directory; arguments as in the constructor.

        Raises:
            ModelRefused: the directory is not a whole model of ours; the message says what to do.
            ConfigError: a device that is not there.
        """
        model, card = saved_model.load(directory)
        return cls(model, card.model_version, device=device, threads=threads, half=half)

    def encode(self, snapshots: Sequence[Snapshot]) -> Encoded:
        """Embed customers and score churn.

        Raises:
            InvalidField: as in :func:`models.snapshot_columns.check`.
        """
        for snapshot in snapshots:
            check(snapshot)
        batch = sequences_of(snapshots, self.model.vocabulary, self.model.encoder.size)
        with torch.inference_mode():
            embedding = self.embed(batch)
            logits, parts = self.model.churn(embedding, torch.from_numpy(batch.numbers).to(self.device))
            parts = parts * self.model.churn.scale
            churn = torch.sigmoid(logits)
        return Encoded(
            embeddings=embedding.cpu().numpy(),
            churn=churn.cpu().numpy(),
            churn_logits=logits.cpu().numpy(),
            contributions=by_feature(parts.cpu().numpy()),
            base=self._base,
            columns=batch.numbers,
            words=len(batch.words),
            unknown_words=int((batch.words == UNK_ID).sum()),
        )

    def reasons(self, snapshot: Snapshot, contributions: Floats, top: int = TOP) -> list[Reason]:
        """Why this churn probability: ``contributions`` is the customer's row of ``Encoded.contributions``, (SIZE,)."""
        return churn_reasons(snapshot, contributions, self.typical, top)

    def redemption_reasons(
        self, snapshot: Snapshot, redemptions: Redemptions, row: int, campaigns: Campaigns, column: int, top: int = TOP
    ) -> list[Reason]:
        """Why this redemption probability: the customer at ``row``, the campaign at ``column``."""
        values = campaigns.candidates.cross([snapshot])[0, column]
        parts = redemptions.customer[row], redemptions.cross[row, column]
        return redemption_reasons(snapshot, *parts, values, self.typical, top)

    def campaigns(self, catalog: Mapping[str, CatalogEntry], ids: Sequence[str], version: object = None) -> Campaigns:
        """Campaigns ready to be scored.

        Args:
            catalog: ``kind:id`` -> entry.
            ids: campaigns in the order of the score's columns; one that the catalog lacks is a KeyError.
            version: anything hashable that changes when the catalog does; results are kept per version and ids.
        """
        key = (version, tuple(ids))
        found = self._cached.get(key) if version is not None else None
        if found is None:
            entries = [catalog[f"campaign:{name}"] for name in ids]
            found = self._ready(Candidates(entries, catalog, self.model.vocabulary))
            if version is not None:
                if len(self._cached) >= CACHED_CANDIDATES:
                    del self._cached[next(iter(self._cached))]
                self._cached[key] = found
        elif version is not None:
            self._cached[key] = self._cached.pop(key)  # the one that is used most, of live decisions, has to stay
        return found

    def _ready(self, candidates: Candidates) -> Campaigns:
        with torch.inference_mode():
            words = torch.from_numpy(candidates.words).to(self.device)
            return Campaigns(candidates, self.model.redemption.tower(words, self.model.encoder.words()))

    def redemption(self, encoded: Encoded, snapshots: Sequence[Snapshot], campaigns: Campaigns) -> Redemptions:
        """Score every customer of a batch with every campaign.

        Args:
            encoded: what :meth:`encode` made of the same snapshots.
        """
        if len(encoded) != len(snapshots):
            raise ValueError(f"{len(snapshots)} snapshots, but {len(encoded)} are encoded")
        cross = campaigns.candidates.cross(snapshots)
        head = self.model.redemption
        with torch.inference_mode():
            logits, own, pair = head(
                torch.from_numpy(encoded.embeddings).to(self.device),
                torch.from_numpy(encoded.columns).to(self.device),
                torch.from_numpy(cross).to(self.device),
                campaigns.vectors,
            )
            scaled = (torch.sigmoid(logits), own * head.scale, pair * head.scale)
        probability, customer, crossed = (part.cpu().numpy() for part in scaled)
        assert crossed.shape[-1] == len(CROSS_NAMES)
        return Redemptions(probability=probability, customer=by_feature(customer), cross=crossed)


def _device(wanted: str | torch.device | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {wanted!r} cannot be used ({error}); leave it out, or write cpu") from error
    return device
