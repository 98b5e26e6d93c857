"""SASRec with a softmax over sampled items: a small causal transformer that says which item comes next.

Its settings are those of the best published result on Amazon Beauty; none of them was chosen here on test items.

Sources: Kang and McAuley, "Self-attentive sequential recommendation" (2018); Klenitskiy and Vasilev, "Turning dross
into gold loss" (2023), for the softmax; Tikhonovich et al., "eSASRec" (2025), for the settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from infra.evaluate.sequences import PAD, Ints, LeaveOneOut

POOL: Final = 32
"""Batches that are sorted by length together, to keep padding low."""
BEST: Final = 10
_RANKED: Final = 512


class SasRecSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of model and training."""

    hidden: int = 64
    blocks: int = 1
    heads: int = 2
    dropout: float = 0.2
    longest: int = 50
    """Newest items of a user that are read."""
    negatives: int = 256
    """Items that are sampled for a sequence, evenly; its positions share them."""
    batch: int = 128
    rate: float = 1e-3
    patience: int = 50
    """Epochs without a better NDCG@10 on validation items after which training stops."""
    epochs: int = 400
    """At most."""


class Block(nn.Module):
    """Attention to what came before, and a network a position."""

    def __init__(self, settings: SasRecSettings) -> None:
        super().__init__()
        hidden, self._heads, self._dropout = settings.hidden, settings.heads, settings.dropout
        self.before, self.between = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.forward_part = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(hidden, hidden),
            nn.Dropout(settings.dropout),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, H) → (B, L, H); a position reads itself and those before it, so padding belongs behind."""
        normal = self.before(x)
        query, key, value = (
            part(of).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for part, of in ((self.query, normal), (self.key, x), (self.value, x))
        )
        read = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self._dropout if self.training else 0.0
        )
        x = normal + self.out(read.transpose(1, 2).flatten(2))
        normal = self.between(x)
        out: Tensor = normal + self.forward_part(normal)
        return out


class SasRec(nn.Module):
    """Items in order → a vector at each position that is near the item to come.

    Args:
        items: numbered from 1.
    """

    def __init__(self, items: int, settings: SasRecSettings) -> None:
        super().__init__()
        self.settings = settings
        self.items = nn.Embedding(items + 1, settings.hidden, padding_idx=PAD)
        self.places = nn.Embedding(settings.longest, settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.blocks)])
        self.last = nn.LayerNorm(settings.hidden)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[PAD] = 0.0

    def forward(self, items: Tensor) -> Tensor:
        """(B, L) with padding behind → (B, L, H)."""
        # Counted from the oldest item that is read: so what is said of a beginning does not depend on what came after.
        x = self.items(items) * math.sqrt(self.settings.hidden) + self.places.weight[: items.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.last(x)
        return out

    def loss(self, items: Tensor, targets: Tensor, sampled: Tensor) -> Tensor:
        """Mean over positions of the negative log of the target among it and what is sampled.

        Args:
            items: (B, L), :data:`PAD` behind the last.
            targets: (B, L) the item after each, :data:`PAD` where there is none.
            sampled: (B, K) items.
        """
        states = self(items)
        of_target = (states * self.items(targets)).sum(-1, keepdim=True)  # (B, L, 1)
        others = states @ self.items(sampled).transpose(1, 2)  # (B, L, K)
        others = others.masked_fill(targets[:, :, None] == sampled[:, None, :], float("-inf"))
        every = torch.cat([of_target, others], dim=-1)
        known = (targets != PAD).float()
        losses = every.logsumexp(-1) - of_target.squeeze(-1)
        mean: Tensor = (losses * known).sum() / known.sum()
        return mean

    @torch.no_grad()
    def ranks(self, read: Sequence[Ints], wanted: Ints, *, had: bool = True) -> Ints:
        """Place of each user's wanted item, (U,), 0 is the best; ties count against the model.

        Args:
            read: items of each user.
            wanted: (U,)
            had: whether what the user had before is ranked, too.
        """
        self.eval()
        device, longest = self.items.weight.device, self.settings.longest
        found = np.zeros(len(read), dtype=np.int64)
        order = np.argsort([len(items) for items in read], kind="stable")
        for begin in range(0, len(order), _RANKED):
            users = order[begin : begin + _RANKED]
            items, lengths = padded([read[user][-longest:] for user in users.tolist()])
            scores = self(items.to(device))[torch.arange(len(users)), lengths - 1] @ self.items.weight.T
            own = torch.from_numpy(wanted[users]).to(device)[:, None]
            target = scores.gather(1, own)
            left_out = torch.zeros_like(own) if had else padded([read[user] for user in users.tolist()])[0].to(device)
            scores.scatter_(1, left_out, float("-inf"))
            # The padding is nobody's, and what is wanted does not stand above itself.
            scores[:, PAD] = float("-inf")
            scores.scatter_(1, own, float("-inf"))
            found[users] = (scores >= target).sum(1).cpu().numpy()
        return found


def padded(sequences: Sequence[Ints]) -> tuple[Tensor, Tensor]:
    """(B, L) with :data:`PAD` behind the last item of each, and lengths, (B,)."""
    lengths = np.array([len(items) for items in sequences], dtype=np.int64)
    out = np.full((len(sequences), int(lengths.max(initial=1))), PAD, dtype=np.int64)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    return torch.from_numpy(out), torch.from_numpy(lengths)


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """How training went."""

    epochs: int
    best_epoch: int
    validation: list[float]
    """NDCG@10 on validation items after each epoch."""
    losses: list[float]


def ndcg_of(ranks: Ints) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """NDCG@10 of each user, who wants one item."""
    return np.where(ranks < BEST, 1 / np.log2(ranks + 2.0), 0.0)


def train_sasrec(
    data: LeaveOneOut,
    settings: SasRecSettings,
    *,
    seed: int,
    device: torch.device,
    say: Callable[[str], None] = lambda _text: None,
) -> tuple[SasRec, Trained]:
    """Train until validation items are found no better; reads no test item. Returns the best epoch's model."""
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = SasRec(data.items, settings).to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=settings.rate, betas=(0.9, 0.98))
        best, best_epoch, weights = -1.0, 0, model.state_dict()
        found: list[float] = []
        losses: list[float] = []
        for epoch in range(settings.epochs):
            model.train()
            of_epoch = []
            for items in _batches(data, settings, generator):
                read, _ = padded([one[:-1] for one in items])
                targets, _ = padded([one[1:] for one in items])
                sampled = torch.from_numpy(generator.integers(1, data.items + 1, (len(items), settings.negatives)))
                loss = model.loss(read.to(device), targets.to(device), sampled.to(device))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                of_epoch.append(loss.detach())
            losses.append(float(torch.stack(of_epoch).mean()))
            found.append(float(ndcg_of(model.ranks(data.train, data.valid)).mean()))
            say(f"epoch {epoch + 1}: loss {losses[-1]:.4f}, NDCG@{BEST} on validation items {found[-1]:.4f}")
            if found[-1] > best:
                best, best_epoch = found[-1], epoch
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            if epoch - best_epoch >= settings.patience:
                break
        model.load_state_dict(weights)
    return model.eval(), Trained(epochs=len(found), best_epoch=best_epoch + 1, validation=found, losses=losses)


def _batches(data: LeaveOneOut, settings: SasRecSettings, generator: np.random.Generator) -> Iterator[list[Ints]]:
    """Sequences of two items and more, of like length, in random order."""
    usable = np.array([user for user, items in enumerate(data.train) if len(items) > 1], dtype=np.int64)
    order = generator.permutation(usable)
    lengths = np.array([min(len(items), settings.longest + 1) for items in data.train], dtype=np.int64)
    groups: list[Ints] = []
    for begin in range(0, len(order), settings.batch * POOL):
        pool = order[begin : begin + settings.batch * POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        groups += [pool[at : at + settings.batch] for at in range(0, len(pool), settings.batch)]
    for at in generator.permutation(len(groups)).tolist():
        yield [data.train[user][-(settings.longest + 1) :] for user in groups[at].tolist()]
