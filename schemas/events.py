"""The events that upstream applications produce. All values are JSON objects in UTF-8.

The record key is the customer's id. A body may repeat it as ``customer_id``; it must then agree.
Unknown fields are ignored, so that a producer may send more than we read.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.limits import Consent, EventName, Id, Money, Probability, Properties, Quantity, Text, TimestampMs, Word

#: Clickstream names the product understands. Any other valid name is kept as a custom event.
CLICKSTREAM_EVENTS: Final = frozenset(
    {"page_view", "search", "item_view", "add_to_cart", "remove_from_cart", "purchase", "app_open"}
)
#: Names allowed on ``campaign-sends``, in the order in which they happen to a message.
SEND_EVENTS: Final = ("send", "delivered", "open", "click", "bounce", "unsubscribe", "complaint")


class Clickstream(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One action of a customer on a site, in an app or in a shop.

    Example:
        >>> import msgspec
        >>> raw = b'{"event":"purchase","event_ts_ms":1498867200000,"item_id":"42","value":3.5}'
        >>> msgspec.json.decode(raw, type=Clickstream).item_id
        '42'
    """

    event: EventName
    event_ts_ms: TimestampMs
    event_id: Id | None = None
    customer_id: Id | None = None
    item_id: Id | None = None
    title: Text | None = None
    category: Word | None = None
    price: Money | None = None
    """Unit price, in the shop's currency."""
    quantity: Quantity | None = None
    value: Money | None = None
    """Total of the line; ``price * quantity`` where absent."""
    order_id: Id | None = None
    page: Id | None = None
    query: Text | None = None
    channel: Word | None = None
    properties: Properties | None = None


class CampaignSend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One step in the life of one message to one customer."""

    event: Word
    event_ts_ms: TimestampMs
    campaign_id: Id
    event_id: Id | None = None
    customer_id: Id | None = None
    template_id: Id | None = None
    channel: Word | None = None
    offer_id: Id | None = None
    send_id: Id | None = None
    window_end_ms: TimestampMs | None = None
    """End of the redemption window; the configured default after the send where absent."""
    decision_id: Id | None = None
    propensity: Probability | None = None

    def __post_init__(self) -> None:
        if self.event not in SEND_EVENTS:
            raise ValueError(f"event is {self.event!r}; campaign-sends takes one of {', '.join(SEND_EVENTS)}")


class Redemption(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An offer was used."""

    event_ts_ms: TimestampMs
    offer_id: Id
    event_id: Id | None = None
    customer_id: Id | None = None
    send_id: Id | None = None
    campaign_id: Id | None = None
    value: Money | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known about a customer. A record replaces the one before; a null value erases the customer."""

    event_ts_ms: TimestampMs
    event_id: Id | None = None
    customer_id: Id | None = None
    attributes: Properties | None = None
    timezone: Word | None = None
    consent: Consent | None = None
    """channel -> purpose -> granted. A channel or purpose that is absent is not granted."""


type_by_source: Final[dict[str, type[Clickstream] | type[CampaignSend] | type[Redemption] | type[Profile]]] = {
    "clickstream": Clickstream,
    "campaign-sends": CampaignSend,
    "redemptions": Redemption,
    "profiles": Profile,
}
"""Source topic -> type of its body."""

SOURCES: Final = tuple(type_by_source)
SOURCE_INDEX: Final[dict[str, int]] = {topic: source_index for source_index, topic in enumerate(SOURCES)}
"""Source topic -> its place in :data:`SOURCES`, which breaks ties of event time."""
CLICKSTREAM, CAMPAIGN_SENDS, REDEMPTIONS, PROFILES = range(4)

Body = Clickstream | CampaignSend | Redemption | Profile
