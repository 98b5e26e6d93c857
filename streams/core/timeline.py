"""What a customer did, told in words: the newest events one by one, the sessions before them in brief.

A session is a run of a customer's own actions with no gap longer than the configured one. It is written as

    [SESSION] [GAP:3d] [DAY:sat] [HOUR:17] evt:purchase cat:coffee item:5 price:p3 item:7 ... [/SESSION]

with messages sent to the customer written where they happened, inside a session or between two.
An entry is an event; the lines of one order that share an instant are one entry. Writing is incremental: an event
appends its words, nothing before it is touched again. What leaves at the other end lives on in the history.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from schemas import words as grammar
from schemas.events import CampaignSend, Clickstream, Profile, Redemption, Said, Withdrawal
from schemas.snapshot import Recent
from schemas.words import HASH_BYTES, Words
from streams.core.baskets import Product, basket_of, is_return
from streams.core.context import Context
from streams.core.history import History, Tally, count

REFUND: Final = "refund"
_MOST_WORDS: Final = 254
"""Of one entry, and one more that ends a session: its length is a byte."""
_at: Final = struct.Struct("<I").pack
_BYTES: Final = tuple(bytes((number,)) for number in range(256))


class Timeline(msgspec.Struct, array_like=True, gc=False):
    """The newest events of one customer, and what the open session has come to."""

    at_s: bytes = b""
    lengths: bytes = b""
    words: bytes = b""
    """Columns of :class:`schemas.snapshot.Recent`."""
    start_ms: int = 0
    local_start_ms: int = 0
    """The same as the customer's clock showed it."""
    last_ms: int = 0
    """Newest event of the open session, or of the last one that ended; 0 where there was none."""
    events: int = 0
    """Events in the open session; 0 where none is open."""
    said_ms: int = 0
    said: str = ""
    """Time and event name of the last entry, where an event of the same instant and name may join it."""
    sessions: int = 0
    tally: Tally = msgspec.field(default_factory=Tally)
    """Of the open session, and of what happened since the one before it."""
    history: History = msgspec.field(default_factory=History)

    def copy(self) -> Timeline:
        twin: Timeline = msgspec.structs.replace(self)
        twin.tally = self.tally.copy()
        twin.history = self.history.copy()
        return twin

    def ends_ms(self, gap_ms: int) -> int | None:
        """When the open session ends if nothing more happens; None where none is open."""
        return self.last_ms + gap_ms if self.events else None

    @property
    def recent(self) -> Recent:
        return Recent(self.at_s, self.lengths, self.words)

    def act(self, ts_ms: int, body: Clickstream, context: Context, local_ms: int, rate: float | None = 1.0) -> None:
        """Append a customer's own action, which is no return; begins a session where none is open.

        Args:
            local_ms: the moment in the customer's local time, as if that were UTC.
            rate: see :func:`event_words`.
        """
        begin = b""
        if not self.events:
            gap_ms = ts_ms - self.last_ms if self.last_ms else None
            begin = b"".join(
                [
                    context.words.plain[marker]
                    for marker in (
                        grammar.SESSION,
                        grammar.gap_marker(gap_ms),
                        grammar.day_marker(local_ms),
                        grammar.hour_marker(local_ms),
                    )
                ]
            )
            self.start_ms, self.local_start_ms = ts_ms, local_ms
            self.said = ""
            self.sessions += 1
        self.events += 1
        self.last_ms = ts_ms
        name = body.event
        opening = self._opening(ts_ms, name, context, begin)
        words = _clickstream_words(body, context, rate, self.tally)
        self._say(ts_ms, opening, words, context, name if body.items is None else _last_said(name, body))

    def note(self, ts_ms: int, body: Said, context: Context, rate: float | None = 1.0) -> None:
        """Append what was done to the customer (a message), or undone: it neither begins nor prolongs a session."""
        _count_note(self.tally, body)
        name = name_of(body)
        opening = self._opening(ts_ms, name, context)
        self._say(ts_ms, opening, _words_after_name(body, context, rate, None), context, _last_said(name, body))

    def note_late(
        self, ts_ms: int, body: Said, context: Context, local_ms: int, rate: float | None, value: float
    ) -> None:
        """Append what came too late for its place, here and to the history: sessions stay as they were.

        Args:
            ts_ms: where it is put.
            local_ms: when it was, in local time.
            value: what it is worth, as for :meth:`earn`.
        """
        late = Tally(value=value)
        _count_note(late, body)
        self.said = ""
        opening = self._opening(ts_ms, name_of(body), context, context.words.plain[grammar.LATE])
        self._say(ts_ms, opening, _words_after_name(body, context, rate, late), context, "")
        at_ms = body.event_ts_ms
        self.history.add(late.entry(at_ms, at_ms, local_ms, 1, sessions=0))

    def earn(self, value: float) -> None:
        """Something was bought, or given back, in the company's currency."""
        self.tally.value += value

    def close(self, context: Context) -> None:
        """End the open session."""
        self.history.add(self.tally.entry(self.start_ms, self.last_ms, self.local_start_ms, self.events))
        self.tally = Tally()
        self._extend(context.words.plain[grammar.SESSION_END], context.config.timeline_words, _MOST_WORDS + 1)
        self.events, self.said = 0, ""

    def _opening(self, ts_ms: int, name: str, context: Context, before: bytes = b"") -> bytes | None:
        """How an event's entry begins; None where it joins the last one."""
        joins = ts_ms == self.said_ms and name == self.said
        return None if joins else before + context.words.event[name]

    def _say(self, ts_ms: int, opening: bytes | None, words: bytes, context: Context, last_said: str) -> None:
        """Append an entry, or to the last one.

        Args:
            opening: see :meth:`_opening`, which comes first: new words are published in the order they are met.
            words: what follows.
            last_said: name that the next event of the instant must have to join the entry.
        """
        if opening is None:
            self._extend(words, context.config.timeline_words)
        else:
            said = opening + words
            length = min(_MOST_WORDS, len(said) // HASH_BYTES)
            self.at_s += _at(ts_ms // 1000)
            self.lengths += _BYTES[length]
            self.words += said[: length * HASH_BYTES]
            self._cut(context.config.timeline_words)
        self.said_ms, self.said = ts_ms, last_said

    def _extend(self, said: bytes, limit: int, most: int = _MOST_WORDS) -> None:
        """Add words to the last entry, as far as there is room."""
        lengths = self.lengths
        if not lengths:
            return
        length = lengths[-1] + len(said) // HASH_BYTES
        if length > most:
            length = most
            said = said[: (most - lengths[-1]) * HASH_BYTES]
        self.lengths = lengths[:-1] + _BYTES[length]
        self.words = words = self.words + said
        if len(words) > limit * HASH_BYTES:
            self._cut(limit)

    def _cut(self, limit: int) -> None:
        """Let the oldest entries go; of one that alone is too long, its oldest words."""
        excess = len(self.words) // HASH_BYTES - limit
        if excess <= 0:
            return
        entries = dropped = 0
        while dropped < excess and entries < len(self.lengths) - 1:
            dropped += self.lengths[entries]
            entries += 1
        oldest = self.lengths[entries] - max(0, excess - dropped)
        self.at_s = self.at_s[4 * entries :]
        self.lengths = bytes((oldest,)) + self.lengths[entries + 1 :]
        self.words = self.words[max(excess, dropped) * HASH_BYTES :]


def _count_note(tally: Tally, body: Said) -> None:
    if isinstance(body, CampaignSend):
        tally.messages += body.event == "send"
    elif isinstance(body, Redemption):
        tally.redemptions += 1


def name_of(body: Said) -> str:
    """The event's word without its field name, e.g. ``purchase`` or ``send``; ``refund`` for whatever gives back."""
    if isinstance(body, Clickstream):
        return REFUND if is_return(body) else body.event
    match body:
        case CampaignSend():
            return body.event
        case Redemption():
            return "redemption"
        case Profile():
            return "profile"
        case Withdrawal():
            return "withdrawal"


def _last_said(name: str, body: Said) -> str:
    """Name of the last event word of :func:`event_words`: an exchange says two."""
    if isinstance(body, Clickstream) and body.items is not None and basket_of(body).given_back:
        return REFUND
    return name


def event_words(body: Said, context: Context, rate: float | None = 1.0) -> bytes:
    """Hashes of one event's words, its name first.

    Args:
        rate: what one unit of the event's currency is worth in the company's, for its price bands; None where that
            is not known, and then there is no price word.
    """
    return context.words.event[name_of(body)] + _words_after_name(body, context, rate, None)


def _words_after_name(body: Said, context: Context, rate: float | None, tally: Tally | None) -> bytes:
    words, found = context.words, b""
    match body:
        case Clickstream():
            found = _clickstream_words(body, context, rate, tally)
        case CampaignSend():
            if body.campaign_id is not None:
                found = words.campaign[body.campaign_id]
            if (template_id := body.template_id) is not None:
                found += words.template[template_id]
            if (offer_id := body.offer_id) is not None:
                found += words.offer[offer_id]
            if (channel := body.channel) is not None:
                found += words.channel[channel]
        case Redemption():
            if body.campaign_id is not None:
                found += words.campaign[body.campaign_id]
            found += words.offer[body.offer_id]
        case Profile() | Withdrawal():
            pass  # who somebody is, not what happened
    return found


def _clickstream_words(body: Clickstream, context: Context, rate: float | None, tally: Tally | None) -> bytes:
    words = context.words
    if body.items is None:
        price, given_back = body.price if body.price is not None else body.value, None
        found = _product_words(body, words, price, rate, tally)
    else:
        taken, given_back = basket_of(body)
        found = b"".join([_product_words(line, words, line.price, rate, tally) for line in taken])
    if (page := body.page) is not None:
        found += words.page(page, context.customer_id)
    if (query := body.query) is not None:
        found += words.text(query, context.customer_id)
    if (channel := body.channel) is not None:
        hashed = words.channel[channel]
        found += hashed
        if tally is not None and not tally.channel:
            tally.channel = hashed
    if given_back:
        if taken:
            found += words.event[REFUND]
        found += b"".join([_product_words(line, words, line.price, rate, None) for line in given_back])
    return found


def _product_words(
    product: Product, words: Words, amount: float | None, rate: float | None, tally: Tally | None
) -> bytes:
    found = b""
    if (category := product.category) is not None:
        found = words.category[category]
        if tally is not None:
            count(tally.categories, found)
    if (item_id := product.item_id) is not None:
        item = words.item[item_id]
        found += item
        if tally is not None:
            count(tally.items, item)
    elif product.title is not None:
        found += words.text(product.title)
    if amount is not None and rate is not None:
        found += words.plain[grammar.price_word(abs(amount) * rate)]
    return found
