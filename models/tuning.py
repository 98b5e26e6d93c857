"""Joint tuning of the encoder and the deep parts on what the wide parts leave unexplained.

What is left can be little: on Complete Journey no gate opens. The encoder is therefore also taught each label through a
linear layer on the embedding alone, thrown away afterwards, so that the embedding carries churn and response whether or
not the residual earns its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models import calibration
from models.encoder import Sequences
from models.metrics import log_loss
from models.model import Model
from models.outcomes import Rows
from models.wide import Doubles, Ints
from schemas.snapshot import Head

CHECKS: Final = 5
"""How often validation is looked at during tuning."""
POOL: Final = 16
"""Batches that are drawn together and sorted by length, to keep padding low."""
EVAL_TOKENS: Final = 8_192

Data = Mapping[Head, tuple[Rows, Ints, Ints]]
"""Head → rows, row numbers to fit on, row numbers to validate on."""


class Tuner:
    """Trains ``model`` in place.

    Args:
        data: the heads to train.
        words: word ids of the candidates, (C, W).
    """

    def __init__(self, model: Model, data: Data, words: Tensor, generator: np.random.Generator) -> None:
        self.model, self.data, self.words, self.random = model, data, words, generator
        self.vocabulary = model.encoder.words().num_embeddings
        self.device = words.device
        self.alone = nn.ModuleDict({head: nn.Linear(model.encoder.hidden, 1) for head in data}).to(words.device)

    def logits(self, head: Head, rows: Rows) -> tuple[Tensor, Tensor]:
        """Of a batch: residuals before the gate, and logits of the embedding alone, both (N,)."""
        encoder = self.model.encoder
        sequences = Sequences(rows.tokens, encoder.positions, self.vocabulary)
        ids, mask = sequences.padded(np.arange(len(rows)))
        embedding = encoder(ids.to(self.device), mask.to(self.device))
        return self._residual(head, rows, embedding), self.alone[head](embedding).squeeze(-1)

    def _residual(self, head: Head, rows: Rows, embedding: Tensor) -> Tensor:
        columns = torch.from_numpy(rows.columns).to(self.device)
        if head == "churn":
            churn = self.model.churn
            return churn.residual(embedding, churn.wide.standardise(columns))
        redemption = self.model.redemption
        vectors = redemption.tower(self.words, self.model.encoder.words())[torch.from_numpy(rows.campaign)]
        return redemption.residual(embedding, columns, vectors[:, None]).squeeze(1)

    def measured(self, head: Head, rows: Rows) -> tuple[Doubles, Doubles]:
        """The same for any number of rows, without gradients."""
        self.model.eval()
        out = np.zeros((2, len(rows)))
        sequences = Sequences(rows.tokens, self.model.encoder.positions, self.vocabulary)
        with torch.no_grad():
            for pick in sequences.batches(EVAL_TOKENS):
                out[:, pick] = torch.stack(self.logits(head, rows.take(pick))).float().cpu().numpy()
        return out[0], out[1]

    def wide_logits(self, head: Head, rows: Rows) -> Doubles:
        """(N,), not calibrated."""
        wide = self.model.head(head).wide
        with torch.no_grad():
            z = wide.standardise(torch.from_numpy(rows.inputs()).to(self.device))
            logits: Doubles = wide(z).double().cpu().numpy()
        return logits

    def tune(self, fraction: Callable[[int], float], *, batch: int, rate: float, checked: int) -> int:
        """Train until ``fraction`` reaches 1; keep the weights of the best check.

        Args:
            fraction: steps done → share of the budget used.
            batch: rows per step over all heads.
            rate: peak learning rate of the heads; the encoder's is a third.
            checked: validation rows a head is checked on.

        Returns:
            Steps done.
        """
        heads = list(self.data)
        redemption = self.model.redemption
        parts = [self.model.churn.deep, redemption.customer, redemption.candidate, self.alone]
        optimiser = torch.optim.AdamW(
            [
                {"params": list(self.model.encoder.parameters()), "peak": rate / 3, "weight_decay": 0.01},
                {"params": [p for part in parts for p in part.parameters()], "peak": rate, "weight_decay": 0.05},
            ],
            lr=rate,
        )
        fit = {head: self.data[head][0].take(self.data[head][1]) for head in heads}
        base = {head: torch.from_numpy(self.wide_logits(head, fit[head])).float() for head in heads}
        check = {head: self.data[head][0].take(self.some(self.data[head][2], checked)) for head in heads}
        draws = {head: self._draws(fit[head], _share(head, heads, batch)) for head in heads}
        least, next_check = self._loss(check), 1 / CHECKS
        best: dict[str, Tensor] | None = None  # none is better than the start, where the residual is zero
        steps = 0
        while (done := fraction(steps)) < 1:
            self.model.train()
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * min(1.0, (steps + 1) / 20) * max(0.02, 1 - done)
            losses = []
            for head in heads:
                pick = next(draws[head])
                rows = fit[head].take(pick)
                deep, alone = self.logits(head, rows)
                logit = base[head][torch.from_numpy(pick)].to(self.device) + deep
                target = torch.from_numpy(rows.labels).to(self.device)
                losses += [nn.functional.binary_cross_entropy_with_logits(one, target) for one in (logit, alone)]
            optimiser.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            steps += 1
            if fraction(steps) >= next_check:
                next_check += 1 / CHECKS
                loss = self._loss(check)
                if loss < least:
                    least, best = loss, _weights(self.model)
        if best is not None:
            self.model.load_state_dict(best)
        return steps

    def _loss(self, check: Mapping[Head, Rows]) -> float:
        """Sum over heads of validation log loss with the best gate and calibration."""
        total = 0.0
        for head, rows in check.items():
            if len(rows):
                labels, wide = rows.labels.astype(np.float64), self.wide_logits(head, rows)
                deep, _ = self.measured(head, rows)
                total += log_loss(labels, calibration.choose(labels, wide, deep).apply(wide, deep))
        return total

    def some(self, rows: Ints, count: int) -> Ints:
        """At most ``count`` of the row numbers, drawn evenly."""
        return rows if len(rows) <= count else np.sort(self.random.permutation(rows)[:count])

    def _draws(self, rows: Rows, batch: int) -> Iterator[Ints]:
        """Endless batches of row numbers, of like length, in random order."""
        lengths = np.array([len(one) for one in rows.tokens])
        while True:
            order = self.random.permutation(len(rows))
            for begin in range(0, len(order), batch * POOL):
                pool = order[begin : begin + batch * POOL]
                pool = pool[np.argsort(lengths[pool], kind="stable")]
                groups = [pool[at : at + batch] for at in range(0, len(pool), batch)]
                for at in self.random.permutation(len(groups)):
                    yield groups[at]


def _share(head: Head, heads: Sequence[Head], batch: int) -> int:
    """Rows of a head in one step: redemptions are fewer, and get a quarter where both are trained."""
    if len(heads) == 1:
        return batch
    return batch // 4 if head == "redemption" else batch - batch // 4


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
