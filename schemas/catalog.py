"""Entities a decision can name: the compacted ``catalog`` topic, keyed ``kind:id``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.limits import Id, Money, Properties, Text, TimestampMs, Word

KINDS: Final = ("item", "campaign", "template", "offer", "channel")


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item, campaign, template, offer or channel.

    A campaign is a candidate for a decision while ``active_from_ms <= as_of_ms < active_to_ms``.
    """

    kind: Literal["item", "campaign", "template", "offer", "channel"]
    id: Id
    title: Text | None = None
    category: Word | None = None
    price: Money | None = None
    value: Money | None = None
    """Margin or worth of one redemption."""
    cost: Money | None = None
    """Cost of one send."""
    active_from_ms: TimestampMs | None = None
    active_to_ms: TimestampMs | None = None
    channel: Word | None = None
    template_id: Id | None = None
    purpose: Word | None = None
    """The consent a send needs; ``marketing`` where absent."""
    offers: Annotated[list[Id], Meta(max_length=10_000)] = []
    items: Annotated[list[Id], Meta(max_length=10_000)] = []
    attributes: Properties | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.id}"
