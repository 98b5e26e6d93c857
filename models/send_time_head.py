"""The head of an hour and a channel for a customer: what a message sent then and there meets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.candidate_head import usable
from models.heads import Head, start_at_zero
from models.send_slots import (
    HOURS,
    MOST_CHANNELS,
    MOST_SPELLINGS,
    OF_CHANNELS,
    OF_HOURS,
    SLOT_SIZE,
    SlotRates,
)
from models.wide import COLUMNS, PLAIN, clipped


class SendTimeHead(Head):
    """Logit of an answer: a customer's level, and what the hour and the channel add to it.

    The deep part knows the customer alone, so that it moves the level and no order of hours.
    """

    hours: Tensor
    days: Tensor
    answered: Tensor
    rate: Tensor
    channel_rates: Tensor
    channel_words: Tensor
    spelling_words: Tensor
    spelling_places: Tensor
    strengths: Tensor
    seasonal: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__(PLAIN + SLOT_SIZE)
        self.deep = nn.Linear(hidden, 1)
        start_at_zero(self.deep)
        # As if nothing was counted: every hour and channel is like the others.
        for name, size, even in (
            ("hours", 24, 1 / 24),
            ("days", 7, 1 / 7),
            ("answered", HOURS, 0.0),
            ("channel_rates", MOST_CHANNELS, 0.5),
        ):
            self.register_buffer(name, torch.full((size,), even, dtype=torch.float64))
        for name, size in (
            ("channel_words", MOST_CHANNELS),
            ("spelling_words", MOST_SPELLINGS),
            ("spelling_places", MOST_SPELLINGS),
        ):
            self.register_buffer(name, torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("rate", torch.full((), 0.5, dtype=torch.float64))
        self.register_buffer("strengths", torch.ones(3, dtype=torch.float64))
        self.register_buffer("seasonal", torch.zeros((), dtype=torch.bool))

    def forward(
        self, embedding: Tensor, columns: Tensor, hours: Tensor, channels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Customers against hours and channels.

        Args:
            embedding: (B, H).
            columns: raw columns, (B, COLUMNS).
            hours: from :meth:`models.send_slots.SlotRates.of_hours`, (B, S, ·).
            channels: from :meth:`models.send_slots.SlotRates.of_channels`, (B, C, ·).

        Returns:
            Calibrated logits (B, S, C), and what the inputs of hours and of channels each add to them, (B, S, ·) and
            (B, C, ·).
        """
        z = self.wide.standardise(usable(columns), end=PLAIN)  # (B, PLAIN)
        level = (z * self.wide.weight[:PLAIN]).sum(-1) + self.wide.bias  # (B,)
        level = level + self.gate * self.deep(embedding).squeeze(-1)
        of_hours, of_channels = self.parts(hours, OF_HOURS), self.parts(channels, OF_CHANNELS)
        logits = level[:, None, None] + of_hours.sum(-1)[:, :, None] + of_channels.sum(-1)[:, None, :]
        return self.calibrated(logits), of_hours * self.scale, of_channels * self.scale

    def parts(self, raw: Tensor, which: list[int]) -> Tensor:
        """What inputs of a slot (..., len(which)) add to the logit before it is calibrated, each."""
        at = torch.tensor(which, device=raw.device) + PLAIN
        z = (raw - self.wide.mean[at]) / self.wide.deviation[at]
        return clipped(z) * self.wide.weight[at]

    def load_rates(self, rates: SlotRates) -> None:
        """Take over what was counted."""
        for name in ("hours", "days", "answered", "channel_rates"):
            getattr(self, name).copy_(torch.from_numpy(np.ascontiguousarray(getattr(rates, name))))
        self.rate.fill_(rates.rate)
        for word, place in rates.channels.items():
            self.channel_words[place] = word
        for at, (word, place) in enumerate(rates.spellings.items()):
            self.spelling_words[at], self.spelling_places[at] = word, place
        strengths = (rates.hours_strength, rates.days_strength, rates.channel_strength)
        self.strengths.copy_(torch.tensor(strengths, dtype=torch.float64))
        self.seasonal.fill_(rates.seasonal)

    def rates(self) -> SlotRates:
        """What :meth:`load_rates` took over."""
        hours, days, answered, channel_rates = (
            getattr(self, name).cpu().numpy() for name in ("hours", "days", "answered", "channel_rates")
        )
        words, places = self.spelling_words.tolist(), self.spelling_places.tolist()
        of_hours, of_days, of_channels = self.strengths.tolist()
        return SlotRates(
            hours=hours,
            days=days,
            answered=answered,
            rate=float(self.rate),
            channel_rates=channel_rates,
            channels={word: place for place, word in enumerate(self.channel_words.tolist()) if word >= 0},
            spellings={word: place for word, place in zip(words, places, strict=True) if word >= 0},
            hours_strength=of_hours,
            days_strength=of_days,
            channel_strength=of_channels,
            seasonal=bool(self.seasonal),
        )

    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        def unknown(*size: int) -> Tensor:
            return torch.full((len(embedding), *size), float("nan"), device=embedding.device)

        logits, _, _ = self(embedding, unknown(COLUMNS), unknown(1, len(OF_HOURS)), unknown(1, len(OF_CHANNELS)))
        out: Tensor = logits[:, :, 0]
        return out
