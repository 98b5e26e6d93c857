"""The events that upstream applications produce. All values are JSON objects in UTF-8.

The record key is the customer's id. A body may repeat it as ``customer_id``; it must then agree.
Unknown fields are ignored, so that a producer may send more than we read.

To add a field: the field, with its meaning below it; ``python docs/generate.py`` takes it into the documentation.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.limits import (
    MAX_LINES,
    Consent,
    Currency,
    EventName,
    Id,
    Money,
    Probability,
    Properties,
    Quantity,
    Text,
    TimestampMs,
    Word,
)
from schemas.names import OPT_OUTS, suggestion

#: Clickstream names the product understands. Any other valid name is kept as a custom event.
CLICKSTREAM_EVENTS: Final = frozenset(
    {"page_view", "search", "item_view", "add_to_cart", "remove_from_cart", "purchase", "refund", "return", "app_open"}
)
#: What gives something back. A ``purchase`` with a quantity or value below 0 does, too.
GIVING_BACK: Final = frozenset({"refund", "return"})
#: Names whose quantities may be below 0: for a return.
_SIGNED: Final = GIVING_BACK | {"purchase"}
#: What each line says for itself, and the event therefore must not.
OF_LINES: Final = ("item_id", "title", "category", "price", "quantity")
#: Names allowed on ``campaign-sends``, in the order in which they happen to a message.
SEND_EVENTS: Final = ("send", "delivered", "open", "click", "bounce", "unsubscribe", "complaint")


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One product of an event that is about several."""

    item_id: Id
    """The item, as in the catalog."""
    quantity: Quantity | None = None
    """How many units, 1 where absent. Below 0 on a purchase it is a returned line, as in an exchange."""
    price: Money | None = None
    """Unit price, in the event's currency; 0 is free. Below 0 it is a discount: it lowers the order's value."""
    category: Word | None = None
    """Category."""
    title: Text | None = None
    """Name for people."""


Lines = Annotated[tuple[Line, ...], Meta(max_length=MAX_LINES)]


class Clickstream(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One action of a customer on a site, in an app or in a shop.

    Example:
        >>> import msgspec
        >>> raw = b'{"event":"purchase","event_ts_ms":1498867200000,"item_id":"42","value":3.5}'
        >>> msgspec.json.decode(raw, type=Clickstream).item_id
        '42'
    """

    event: EventName
    """What happened."""
    event_ts_ms: TimestampMs
    """When it happened: event time, not the time of sending."""
    event_id: Id | None = None
    """Duplicate key; the ``ce_source`` and ``ce_id`` headers are read where it is absent."""
    customer_id: Id | None = None
    """The customer; it must agree with the record key."""
    item_id: Id | None = None
    """The item, as in the catalog."""
    title: Text | None = None
    """Name for people; its words stand for the item where there is no ``item_id``."""
    category: Word | None = None
    """Category."""
    price: Money | None = None
    """Unit price, in ``currency``; 0 is free."""
    quantity: Quantity | None = None
    """How many units, 1 where absent. Below 0, of a ``purchase``, ``refund`` or ``return``, it is a return."""
    items: Lines | None = None
    """Several products in one event, instead of ``item_id``, ``title``, ``category``, ``price`` and ``quantity``."""
    value: Money | None = None
    """Total of the event; ``price * quantity``, of all lines together, where absent."""
    currency: Currency | None = None
    """ISO 4217, e.g. ``EUR``; ``PULSEGRAPH_CORE_CURRENCY`` where absent."""
    order_id: Id | None = None
    """Events of one order share it: the order counts once, whatever comes in between."""
    page: Id | None = None
    """Name of the page or screen."""
    query: Text | None = None
    """What was searched for."""
    channel: Word | None = None
    """Where it happened."""
    properties: Properties | None = None
    """Anything else; kept out of the model."""

    def __post_init__(self) -> None:
        if self.items is not None:
            self._check_lines()
        elif self.quantity is not None and self.quantity < 0 and self.event not in _SIGNED:
            raise ValueError(f"quantity is {self.quantity:g}: below 0 it is a return, which {self.event!r} is not")
        if self.currency is not None and not self.currency.isupper():
            msgspec.structs.force_setattr(self, "currency", self.currency.upper())

    def _check_lines(self) -> None:
        if not self.items:
            msgspec.structs.force_setattr(self, "items", None)  # a list of nothing says nothing
            return
        doubled = [name for name in OF_LINES if getattr(self, name) is not None]
        if doubled:
            raise ValueError(f"items and {', '.join(doubled)} exclude each other: say {doubled[0]} of each line")
        if self.event not in _SIGNED and any(line.quantity is not None and line.quantity < 0 for line in self.items):
            raise ValueError(f"a line's quantity is below 0: that is a return, which {self.event!r} is not")


class CampaignSend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One step in the life of one message to one customer."""

    event: Word
    """What happened to the message."""
    event_ts_ms: TimestampMs
    """When it happened: event time, not the time of sending."""
    campaign_id: Id | None = None
    """The campaign, as in the catalog. Only ``unsubscribe`` and ``complaint`` need none."""
    event_id: Id | None = None
    """Duplicate key; the ``ce_source`` and ``ce_id`` headers are read where it is absent."""
    customer_id: Id | None = None
    """The customer; it must agree with the record key."""
    template_id: Id | None = None
    """The template, as in the catalog."""
    channel: Word | None = None
    """By which channel the message goes."""
    offer_id: Id | None = None
    """The offer, as in the catalog."""
    send_id: Id | None = None
    """The one message; joins its opens, clicks and redemptions."""
    window_end_ms: TimestampMs | None = None
    """End of the redemption window; the configured default after the send where absent."""
    decision_id: Id | None = None
    """``prediction_id`` of the decision of ours that led to the send."""
    propensity: Probability | None = None
    """Probability with which the policy chose what was chosen."""

    def __post_init__(self) -> None:
        if self.event not in SEND_EVENTS:
            taken = ", ".join(SEND_EVENTS)
            raise ValueError(
                f"event is {self.event!r}; campaign-sends takes one of {taken}{suggestion(self.event, SEND_EVENTS)}"
            )
        if self.campaign_id is None and self.event not in OPT_OUTS:
            raise ValueError(f"{self.event} has no campaign_id: only {' and '.join(OPT_OUTS)} need none")


class Redemption(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An offer was used."""

    event_ts_ms: TimestampMs
    """When it happened: event time, not the time of sending."""
    offer_id: Id
    """The offer, as in the catalog."""
    event_id: Id | None = None
    """Duplicate key; the ``ce_source`` and ``ce_id`` headers are read where it is absent."""
    customer_id: Id | None = None
    """The customer; it must agree with the record key."""
    send_id: Id | None = None
    """The one message; joins its opens, clicks and redemptions."""
    campaign_id: Id | None = None
    """The campaign, as in the catalog."""
    value: Money | None = None
    """What the redemption was worth."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known about a customer. A record replaces the one before, consent aside; a null value erases them."""

    event_ts_ms: TimestampMs
    """When it happened: event time, not the time of sending."""
    event_id: Id | None = None
    """Duplicate key; the ``ce_source`` and ``ce_id`` headers are read where it is absent."""
    customer_id: Id | None = None
    """The customer; it must agree with the record key."""
    attributes: Properties | None = None
    """Anything known; shown, and kept out of models, but for the names in ``PULSEGRAPH_CORE_MODEL_ATTRIBUTES``."""
    timezone: Word | None = None
    """IANA name, e.g. ``Europe/Berlin``: hours and days are the customer's own. An unknown name is not used."""
    consent: Consent | UnsetType | None = UNSET
    """channel -> purpose -> granted. It replaces consent as a whole: what is absent from it is not granted, and null
    withdraws everything. A profile without the field leaves consent as it was."""


class Withdrawal(msgspec.Struct, frozen=True, gc=False):
    """All consent is taken back, since a record that may have done so could not be read. Never on the wire."""

    event_ts_ms: int
    """When: of the record, as nothing else is known."""


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
Said = Body | Withdrawal
"""What an event in state says."""
