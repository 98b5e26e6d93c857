"""Heads that say when something happens: a hazard in each bin of :mod:`models.survival`, of one event or of several.

Each bin has weights of its own, since what tells who comes tomorrow (the session that is open) is not what tells who
comes back after a month. Beside them is what :class:`models.heads.CustomerHead` has: a boosted forest where it is
better, and the embedding behind a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor, nn

from models.heads import TaskHead, start_at_zero
from models.survival import BINS
from models.trees import TREES, Forest
from models.wide import CLIP, COLUMNS, PLAIN

PARTS: Final = ("gate", "scale", "shift")


class Hazard(nn.Module):
    """Of one event. Everything is a buffer: :mod:`models.hazard_lesson` fits it.

    Attributes:
        known: whether it was learned; what one says that was not means nothing.
        share: of the forest in the wide part.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor
    known: Tensor
    gate: Tensor
    scale: Tensor
    shift: Tensor
    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, start in (("mean", 0.0), ("deviation", 1.0), ("weight", 0.0)):
            self.register_buffer(name, torch.full((BINS, COLUMNS), start))
        self.register_buffer("bias", torch.zeros(BINS))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        for name, start in (("gate", 1.0), ("scale", 1.0), ("shift", 0.0), ("share", 0.0)):
            self.register_buffer(name, torch.full((), start))
        # The last column is the bin's number: a forest finds out by itself what depends on it.
        self.trees = Forest(PLAIN + 1)

    def forward(self, columns: Tensor, deep: Tensor) -> Tensor:
        """Raw columns (B, COLUMNS) and what the embedding says (B, BINS) → calibrated logits (B, BINS)."""
        return self._said(self._standardised(columns), self.of_trees(columns) if self.share else None, deep)

    def of_trees(self, columns: Tensor) -> Tensor:
        """What the forest says of raw columns (B, COLUMNS): (B, BINS)."""
        return self.trees.logits(self._leaves(columns))

    def calibrated(self, logits: Tensor) -> Tensor:
        return logits * self.scale + self.shift

    def explained(self, columns: Tensor, deep: Tensor, weigh: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Logits as :meth:`forward`, and what columns add to a mean of them, the embedding aside: (B, COLUMNS).

        Args:
            weigh: from the logits (B, BINS) to weights of the bins, (B, BINS), of sum 1.
        """
        z, share = self._standardised(columns), float(self.share)
        leaves = self._leaves(columns) if share else None
        logits = self._said(z, None if leaves is None else self.trees.logits(leaves), deep)
        weights = weigh(logits)
        parts = torch.einsum("bkd,kd,bk->bd", z, self.weight, weights)
        if leaves is not None:
            mixed = self.trees.credit(leaves.flatten(1), weights.repeat_interleave(TREES, 1))[:, :PLAIN]
            parts = (1 - share) * parts
            parts[:, :PLAIN] += share * mixed
        return logits, parts * self.scale

    def _said(self, z: Tensor, of_trees: Tensor | None, deep: Tensor) -> Tensor:
        """Calibrated logits (B, BINS) of standardised columns (B, BINS, COLUMNS) and a forest's, where there is one."""
        wide = torch.einsum("bkd,kd->bk", z, self.weight) + self.bias
        if of_trees is not None:
            wide = torch.lerp(wide, of_trees, float(self.share))
        return self.calibrated(wide + self.gate * deep)

    def _standardised(self, columns: Tensor) -> Tensor:
        """(B, BINS, COLUMNS); what is not known is at the mean."""
        z = (columns[:, None, :] - self.mean) / self.deviation
        return z.nan_to_num(nan=0.0, posinf=CLIP, neginf=-CLIP).clamp(-CLIP, CLIP)

    def _leaves(self, columns: Tensor) -> Tensor:
        """(B, BINS, TREES): of the plain columns (B, ≥ PLAIN) in each bin, whose number is the forest's last column."""
        plain = torch.nn.functional.pad(columns[:, :PLAIN], (0, 1), value=-torch.inf)
        bins = columns.new_full((BINS, PLAIN + 1), -torch.inf)
        bins[:, PLAIN] = torch.arange(BINS)
        return self.trees.leaves(self.trees.answers(plain)[:, None] + self.trees.answers(bins))


class HazardHead(TaskHead):
    """Hazards of some events.

    Args:
        events: their names.

    Attributes:
        deep: what the embedding says by itself of each bin of each event.
    """

    def __init__(self, hidden: int, events: Iterable[str]) -> None:
        super().__init__()
        self.hazards = nn.ModuleDict({name: Hazard() for name in events})
        self.deep = nn.Linear(hidden, BINS * len(self.hazards))
        start_at_zero(self.deep)

    @property
    def events(self) -> dict[str, Hazard]:
        return {name: hazard for name, hazard in self.hazards.items() if isinstance(hazard, Hazard)}

    @property
    def calibration(self) -> dict[str, float]:
        return {
            f"{name}.{part}": float(getattr(hazard, part)) for name, hazard in self.events.items() for part in PARTS
        }

    @property
    def forest_share(self) -> float:
        return max(float(hazard.share) for hazard in self.events.values())

    def forward(self, embedding: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """(B, H) and raw columns (B, COLUMNS) → calibrated logits of each event, (B, BINS)."""
        deep = self.said_by(embedding)
        return {name: hazard(columns, deep[name]) for name, hazard in self.events.items()}

    def said_by(self, embedding: Tensor) -> dict[str, Tensor]:
        """What the embedding (B, H) says by itself of each event, (B, BINS)."""
        deep = self.deep(embedding).view(len(embedding), len(self.hazards), BINS)
        return {name: deep[:, at] for at, name in enumerate(self.hazards)}

    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        columns = torch.full((len(embedding), COLUMNS), float("nan"), device=embedding.device)
        return torch.cat(list(self(embedding, columns).values()), dim=1)
