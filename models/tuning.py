"""Training of the encoder.

It learns from everything at once: what customers do next (:mod:`models.pretrain`) and each task's label through a layer
on the embedding alone. So the embedding is worth something by itself, whether or not a head makes use of it. In a part
of the rows the numeric features are not shown, or the encoder would copy them and leave the sequence unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.coles import Contrast
from models.device import autocast
from models.embedding import TorchEmbedder
from models.encoder import pool
from models.masked import SHARE, MaskedEvents, hide
from models.model import EncoderCheck, Model
from models.outcomes import Rows
from models.pretrain import FutureHeads
from models.probability import some, weights_of
from models.task import Lesson
from models.wide import Floats, Ints
from schemas.errors import ConfigError

CHECKS: Final = 2
"""How often an epoch the rows that are kept for stopping are looked at."""
PATIENCE: Final = 4
"""Checks without a gain after which training stops."""
CHECKED: Final = 2_000
"""Rows of a head that a check looks at."""
POOL: Final = 16
"""Batches that are drawn together and sorted by length, to keep padding low."""
HIDDEN: Final = 0.4
"""Share of rows whose numeric features are not shown."""
LEFT_OUT: Final = 0.5
"""Share of positions, and of the words in those that stay, that a step does not see."""
WARM_UP: Final = 50
"""Steps in which the learning rate rises."""


@dataclass(frozen=True)
class Lessons:
    """Those that share rows: these are encoded once for all of them."""

    rows: Rows
    by_task: Mapping[str, Lesson]
    future: FutureHeads | None = None
    """Heads of what comes after the rows."""

    def chosen(self, stage: Literal["fit", "stop"]) -> Ints:
        """Rows that a task has in the stage."""
        return np.unique(np.concatenate([getattr(lesson.split, stage) for lesson in self.by_task.values()]))

    def loss(self, embedding: Tensor, pick: Ints) -> Tensor:
        """All losses together of (B, H) of the rows ``pick``."""
        losses = [lesson.loss(embedding, pick) for lesson in self.by_task.values()]
        if self.future is not None:
            losses += self.future.losses(embedding, pick)
        return torch.stack(losses).sum()


class Trainer:
    """Trains the encoder of ``model`` in place.

    Args:
        layers: of each task, what it says from the embedding alone.
        masked: what hidden events were; None: none are hidden.
        contrast: windows of one customer against others; None: no windows.
    """

    def __init__(
        self,
        model: Model,
        lessons: Sequence[Lessons],
        layers: Mapping[str, nn.Module],
        generator: np.random.Generator,
        masked: MaskedEvents | None = None,
        contrast: Contrast | None = None,
    ) -> None:
        self.masked, self.contrast = masked, contrast
        self.model, self.lessons, self.random = model, lessons, generator
        self.device = model.encoder.words().weight.device
        self.layers = nn.ModuleDict(dict(layers))
        self._future = nn.ModuleList([found.future for found in lessons if found.future is not None])

    def learn(
        self, fraction: Callable[[float], float], *, batch: int, rate: float, body_rate: float = 1.0
    ) -> tuple[int, float, list[EncoderCheck]]:
        """Train until ``fraction`` reaches 1, or until nothing is gained; keep the weights of the best check.

        Args:
            fraction: epochs done → share done of what may be done.
            batch: rows of a step.
            rate: peak learning rate.
            body_rate: of the encoder's body, as a share of it.

        Returns:
            Steps and epochs done, and what the checks found.
        """
        parts = (self.model.encoder, self.layers, self._future, *([self.masked] if self.masked else []))
        weights = [weight for part in parts for weight in part.parameters()]
        body = {id(weight) for weight in self.model.encoder.body.parameters()}
        optimiser = torch.optim.AdamW(
            [
                {"params": [weight for weight in weights if (id(weight) in body) is of_body], "share": share}
                for of_body, share in ((False, 1.0), (True, body_rate))
            ],
            lr=rate,
            weight_decay=0.05,
        )
        # Without rows to stop at, e.g. of very few customers, nothing is looked at and the last weights stay.
        checked = [(found, some(found.chosen("stop"), CHECKED, self.random)) for found in self.lessons]
        checked = [(found, chosen) for found, chosen in checked if len(chosen)]
        checks: list[EncoderCheck] = []
        best: list[dict[str, Tensor]] | None = None
        least, steps, epochs, waited = float("inf"), 0, 0.0, 0
        while fraction(epochs) < 1 and waited < PATIENCE:
            order = self._epoch(batch)
            looks = {round(len(order) * look / CHECKS) for look in range(1, CHECKS + 1)}
            begun = epochs
            for at, (found, pick) in enumerate(order, 1):
                done = fraction(epochs)
                if done >= 1 or waited >= PATIENCE:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["share"] * min(1.0, (steps + 1) / WARM_UP) * max(0.02, 1 - done)
                loss = self._training_loss(found, pick)
                if not bool(torch.isfinite(loss)):
                    raise ConfigError(f"training left the numbers after {steps} steps: try a smaller learning rate")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(weights, 1.0)
                optimiser.step()
                steps += 1
                epochs = begun + at / len(order)
                if at in looks and checked:
                    checks.append(self._check(epochs, checked, batch))
                    waited += 1
                    if checks[-1].loss < least:
                        least, best, waited = (
                            checks[-1].loss,
                            [weights_of(part) for part in (self.model.encoder, self.layers)],
                            0,
                        )
        if best is not None:
            self.model.encoder.load_state_dict(best[0])
            self.layers.load_state_dict(best[1])
        self.model.eval()
        return steps, epochs, checks

    def once(self) -> None:
        """One loss and its gradients, which are thrown away."""
        before = self.random.bit_generator.state
        loss = self._training_loss(self.lessons[0], self.lessons[0].chosen("fit")[:2])
        loss.backward()  # type: ignore[no-untyped-call]
        self.random.bit_generator.state = before
        self.model.zero_grad(set_to_none=True)

    def embeddings(self, rows: Rows) -> Floats:
        """(N, H) of any number of rows."""
        self.model.eval()
        found: Floats = TorchEmbedder(self.model.encoder, self.device)(rows.sequences).float().cpu().numpy()
        return found

    def _epoch(self, batch: int) -> list[tuple[Lessons, Ints]]:
        """All rows that are fitted on, in batches of one question and of like length, in random order."""
        found: list[tuple[Lessons, Ints]] = []
        for lessons in self.lessons:
            order = self.random.permutation(lessons.chosen("fit"))
            for begin in range(0, len(order), batch * POOL):
                pool = order[begin : begin + batch * POOL]
                pool = pool[np.argsort(lessons.rows.sequences.lengths[pool], kind="stable")]
                found += [(lessons, pool[at : at + batch]) for at in range(0, len(pool), batch)]
        return [found[at] for at in self.random.permutation(len(found))]

    def _training_loss(self, lessons: Lessons, pick: Ints) -> Tensor:
        self.model.train()
        sequences = lessons.rows.sequences.take(pick).thinned(LEFT_OUT, LEFT_OUT, self.random)
        hidden = torch.from_numpy(self.random.random(len(pick)) < HIDDEN).to(self.device)
        masked = hide(sequences, SHARE, self.random) if self.masked else None
        with autocast(self.device):
            states, mask = self.model.encoder.states(masked.sequences if masked else sequences, hidden)
        loss = lessons.loss(pool(states, mask), pick)
        if self.masked and masked:
            loss = loss + self.masked(states, masked)
        if self.contrast:
            with autocast(self.device):
                loss = loss + self.contrast(self.model.encoder, sequences, lessons.rows.customers[pick], self.random)
        return loss

    @torch.no_grad()
    def _check(self, epoch: float, checked: Sequence[tuple[Lessons, Ints]], batch: int) -> EncoderCheck:
        loss, alone = 0.0, {}
        for lessons, chosen in checked:
            embeddings = self.embeddings(lessons.rows.take(chosen))
            for name, lesson in lessons.by_task.items():
                alone[name] = lesson.alone(embeddings, chosen)
            for begin in range(0, len(chosen), batch):
                pick = chosen[begin : begin + batch]
                embedding = torch.from_numpy(embeddings[begin : begin + batch]).to(self.device)
                loss += float(lessons.loss(embedding, pick)) * len(pick) / len(chosen)
        return EncoderCheck(epoch=round(epoch, 3), loss=loss, auc=alone)
