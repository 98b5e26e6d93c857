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
    """What it is."""
    id: Id
    """Its id; the record key is ``kind:id``."""
    title: Text | None = None
    """Name for people; the model reads its first words."""
    category: Word | None = None
    """Category."""
    price: Money | None = None
    """Price."""
    value: Money | None = None
    """Margin or worth of one redemption."""
    cost: Money | None = None
    """Cost of one send."""
    active_from_ms: TimestampMs | None = None
    """Beginning of the window in which a campaign may be chosen; open where absent."""
    active_to_ms: TimestampMs | None = None
    """End of that window; open where absent."""
    channel: Word | None = None
    """By which channel its messages go."""
    template_id: Id | None = None
    """The template, as in the catalog."""
    purpose: Word | None = None
    """The consent a send needs; ``marketing`` where absent."""
    offers: Annotated[list[Id], Meta(max_length=10_000)] = []
    """Offers of a campaign."""
    items: Annotated[list[Id], Meta(max_length=10_000)] = []
    """Items of an offer or campaign."""
    attributes: Properties | None = None
    """Anything known; the model reads the first words of its texts, where title and category leave room."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.id}"
