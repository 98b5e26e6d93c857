"""Training of the encoder and of the heads' deep parts.

The encoder learns from everything at once: what customers do next (:mod:`models.pretrain`) and each head's label
through a linear layer on the embedding alone. So the embedding is worth something by itself,
whether or not a head's residual earns its place. In a part of the rows the numeric features are not shown, or the
encoder would copy them and leave the sequence unread.

Churn's layer stays, as the deep part of its head. Redemption's is thrown away: its deep part has to know the campaign,
and is fitted afterwards, on embeddings that stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models import calibration
from models.embedding import TorchEmbedder
from models.metrics import auc, log_loss
from models.model import EncoderCheck, Model
from models.outcomes import Rows, Split
from models.pretrain import FutureHeads
from models.wide import Doubles, Floats, Ints
from schemas.errors import ConfigError
from schemas.snapshot import Head

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
RESIDUAL_EPOCHS: Final = 12
RESIDUAL_BATCH: Final = 512
RESIDUAL_RATE: Final = 1e-3

Data = Mapping[Head, tuple[Rows, Split]]


class Trainer:
    """Trains the encoder of ``model`` in place.

    Args:
        data: the heads to train.
        future: heads of what comes after the churn rows; None where there are none.
    """

    def __init__(self, model: Model, data: Data, future: FutureHeads | None, generator: np.random.Generator) -> None:
        self.model, self.data, self.future, self.random = model, data, future, generator
        self.device = model.encoder.words().weight.device
        alone: dict[str, nn.Module] = {
            head: model.churn.deep if head == "churn" else nn.Linear(model.encoder.hidden, 1) for head in data
        }
        self.alone = nn.ModuleDict(alone).to(self.device)

    def learn(
        self, fraction: Callable[[float], float], *, batch: int, rate: float
    ) -> tuple[int, float, list[EncoderCheck]]:
        """Train until ``fraction`` reaches 1, or until nothing is gained; keep the weights of the best check.

        Args:
            fraction: epochs done → share done of what may be done.
            batch: rows of a step.
            rate: peak learning rate.

        Returns:
            Steps and epochs done, and what the checks found.
        """
        parts = [self.model.encoder, self.alone, *([self.future] if self.future else [])]
        weights = [weight for part in parts for weight in part.parameters()]
        optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.05)
        # Without rows to stop at, e.g. of very few customers, nothing is looked at and the last weights stay.
        checked = {head: self._some(split.stop, CHECKED) for head, (_, split) in self.data.items() if len(split.stop)}
        checks: list[EncoderCheck] = []
        best: list[dict[str, Tensor]] | None = None
        least, steps, epochs, waited = float("inf"), 0, 0.0, 0
        while fraction(epochs) < 1 and waited < PATIENCE:
            order = self._epoch(batch)
            looks = {round(len(order) * look / CHECKS) for look in range(1, CHECKS + 1)}
            begun = epochs
            for at, (head, pick) in enumerate(order, 1):
                done = fraction(epochs)
                if done >= 1 or waited >= PATIENCE:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = rate * min(1.0, (steps + 1) / WARM_UP) * max(0.02, 1 - done)
                loss = self._training_loss(head, pick)
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
                        least, best, waited = checks[-1].loss, _weights(self.model.encoder, self.alone), 0
        if best is not None:
            self.model.encoder.load_state_dict(best[0])
            self.alone.load_state_dict(best[1])
        self.model.eval()
        return steps, epochs, checks

    def embeddings(self, rows: Rows) -> Floats:
        """(N, H) of any number of rows."""
        self.model.eval()
        found: Floats = TorchEmbedder(self.model.encoder, self.device)(rows.sequences).float().cpu().numpy()
        return found

    def alone_logits(self, head: Head, embeddings: Floats) -> Doubles:
        """What the embedding alone says of the head's label, (N,)."""
        with torch.no_grad():
            logits = self.alone[head](torch.from_numpy(embeddings).to(self.device))[:, 0]
        found: Doubles = logits.double().cpu().numpy()
        return found

    def _epoch(self, batch: int) -> list[tuple[Head, Ints]]:
        """All rows that are fitted on, in batches of one head and of like length, in random order."""
        found: list[tuple[Head, Ints]] = []
        for head, (rows, split) in self.data.items():
            order = self.random.permutation(split.fit)
            for begin in range(0, len(order), batch * POOL):
                pool = order[begin : begin + batch * POOL]
                pool = pool[np.argsort(rows.sequences.lengths[pool], kind="stable")]
                found += [(head, pool[at : at + batch]) for at in range(0, len(pool), batch)]
        return [found[at] for at in self.random.permutation(len(found))]

    def _training_loss(self, head: Head, pick: Ints) -> Tensor:
        self.model.train()
        sequences = self.data[head][0].sequences.take(pick).thinned(LEFT_OUT, LEFT_OUT, self.random)
        hidden = torch.from_numpy(self.random.random(len(pick)) < HIDDEN).to(self.device)
        return self._loss(head, pick, self.model.encoder(sequences, hidden))

    def _loss(self, head: Head, pick: Ints, embedding: Tensor) -> Tensor:
        rows = self.data[head][0]
        target = torch.from_numpy(rows.labels[pick]).to(self.device)
        losses = [nn.functional.binary_cross_entropy_with_logits(self.alone[head](embedding).squeeze(-1), target)]
        if head == "churn" and self.future is not None:
            losses += self.future.losses(embedding, pick)
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _check(self, epoch: float, checked: Mapping[Head, Ints], batch: int) -> EncoderCheck:
        loss, aucs = 0.0, {}
        for head, chosen in checked.items():
            rows = self.data[head][0].take(chosen)
            embeddings = self.embeddings(rows)
            aucs[head] = auc(rows.labels.astype(np.float64), self.alone_logits(head, embeddings))
            for begin in range(0, len(chosen), batch):
                pick = chosen[begin : begin + batch]
                embedding = torch.from_numpy(embeddings[begin : begin + batch]).to(self.device)
                loss += float(self._loss(head, pick, embedding)) * len(pick) / len(chosen)
        return EncoderCheck(epoch=round(epoch, 3), loss=loss, auc=aucs)

    def _some(self, rows: Ints, count: int) -> Ints:
        """At most ``count`` of the row numbers, drawn evenly."""
        return rows if len(rows) <= count else np.sort(self.random.permutation(rows)[:count])


class Residual:
    """The redemption head's deep part on embeddings that stay as they are.

    Args:
        words: word ids of the candidates, (C, W).
    """

    def __init__(self, model: Model, words: Tensor) -> None:
        self.head, self.words, self._table = model.redemption, words, model.encoder.words()

    def logits(self, rows: Rows, embeddings: Floats) -> Tensor:
        """Before the gate, (N,)."""
        device = self.words.device
        vectors = self.head.tower(self.words, self._table)[torch.from_numpy(rows.campaign).to(device)]
        columns = torch.from_numpy(rows.sequences.numbers).to(device)
        return self.head.residual(torch.from_numpy(embeddings).to(device), columns, vectors[:, None]).squeeze(1)

    def fit(
        self,
        rows: Rows,
        embeddings: Floats,
        wide: Doubles,
        stop: tuple[Rows, Floats, Doubles],
        generator: np.random.Generator,
    ) -> None:
        """Fit to what ``wide`` leaves; keep the weights that are best on ``stop``, none where none is better.

        Args:
            rows: (N,) to fit on.
            embeddings: (N, H).
            wide: logits of the wide part, (N,).
            stop: the same three of the rows that say when to stop.
        """
        module, device = self.head, self.words.device
        optimiser = torch.optim.AdamW(module.deep_weights(), lr=RESIDUAL_RATE, weight_decay=0.05)
        base, target = torch.from_numpy(wide).float().to(device), torch.from_numpy(rows.labels).to(device)
        least, (best,) = self._loss(*stop), _weights(module)
        for epoch in range(RESIDUAL_EPOCHS):
            module.train()
            for group in optimiser.param_groups:
                group["lr"] = RESIDUAL_RATE * (1 - epoch / RESIDUAL_EPOCHS)
            for pick in _batches(len(rows), RESIDUAL_BATCH, generator):
                logit = base[torch.from_numpy(pick)] + self.logits(rows.take(pick), embeddings[pick])
                loss = nn.functional.binary_cross_entropy_with_logits(logit, target[torch.from_numpy(pick)])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            loss_now = self._loss(*stop)
            if loss_now < least:
                least, (best,) = loss_now, _weights(module)
        module.load_state_dict(best)
        module.eval()

    def measured(self, rows: Rows, embeddings: Floats) -> Doubles:
        """As :meth:`logits`, without gradients."""
        self.head.eval()
        with torch.no_grad():
            logits: Doubles = self.logits(rows, embeddings).double().cpu().numpy()
        return logits

    def _loss(self, rows: Rows, embeddings: Floats, wide: Doubles) -> float:
        """Log loss with the best scale and shift."""
        if not len(rows):
            return float("inf")
        labels, logits = rows.labels.astype(np.float64), wide + self.measured(rows, embeddings)
        scale, shift = calibration.platt(labels, logits)
        return log_loss(labels, scale * logits + shift)


def _batches(count: int, size: int, generator: np.random.Generator) -> Iterator[Ints]:
    order = generator.permutation(count)
    for begin in range(0, count, size):
        yield order[begin : begin + size]


def _weights(*modules: nn.Module) -> list[dict[str, Tensor]]:
    return [{name: value.detach().clone() for name, value in module.state_dict().items()} for module in modules]
