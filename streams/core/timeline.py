"""Sessions and their tokens: the customer's history as a text in the words of :mod:`schemas.words`.

Closed sessions keep their token ids; only the open one is appended to. Ids are uint16 little-endian
bytes, so appending and cutting are copies of memory.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas import words
from schemas.events import Body, CampaignSend, Clickstream, Profile, Redemption
from schemas.words import Lexicon
from streams.core.baskets import Product, basket_of, is_return

_ID_BYTES: Final = 2
REFUND: Final = "refund"


class Timeline(msgspec.Struct, array_like=True, gc=False):
    """The last sessions of one customer."""

    closed: list[tuple[int, int, bytes]] = []
    """(start ms, end ms, ids) of ended sessions and of messages between them, oldest first."""
    closed_bytes: int = 0
    start_ms: int = 0
    last_ms: int = 0
    """Newest event of the open session, or of the last one that ended; 0 where there was none."""
    events: int = 0
    """Events in the open session; 0 where none is open."""
    ids: bytes = b""
    said: str = ""
    """Event name of the open session's last word, so that a run of equal events says it once."""
    sessions: int = 0

    def copy(self) -> Timeline:
        return Timeline(
            self.closed.copy(),
            self.closed_bytes,
            self.start_ms,
            self.last_ms,
            self.events,
            self.ids,
            self.said,
            self.sessions,
        )

    def ends_ms(self, gap_ms: int) -> int | None:
        """When the open session ends if nothing more happens; None where none is open."""
        return self.last_ms + gap_ms if self.events else None

    def tokens(self, limit: int) -> bytes:
        """All ids, oldest first, at most the newest ``limit``."""
        everything = b"".join([ids for _, _, ids in self.closed]) + self.ids
        return everything[-limit * _ID_BYTES :]

    def act(
        self,
        ts_ms: int,
        body: Body,
        lexicon: Lexicon,
        limit: int,
        local_ms: int | None = None,
        rate: float | None = 1.0,
    ) -> None:
        """Append a customer's own action; begins a session where none is open.

        Args:
            local_ms: the moment in the customer's local time, as if that were UTC; ``ts_ms`` where None.
            rate: see :func:`event_ids`.
        """
        if not self.events:
            gap_ms = ts_ms - self.last_ms if self.last_ms else None
            if local_ms is None:
                local_ms = ts_ms
            self.ids = _markers(
                lexicon,
                words.SESSION,
                words.gap_marker(gap_ms),
                words.day_marker(local_ms),
                words.hour_marker(local_ms),
            )
            self.said = ""
            self.start_ms = ts_ms
            self.sessions += 1
        self.events += 1
        self.last_ms = ts_ms
        self._say(body, lexicon, limit, rate)

    def note(self, ts_ms: int, body: Body, lexicon: Lexicon, limit: int, rate: float | None = 1.0) -> None:
        """Append what was done to the customer (a message), or undone: it neither begins nor prolongs a session."""
        if self.events:
            self._say(body, lexicon, limit, rate)
            return
        ids = event_ids(body, lexicon, "", rate)
        self._keep((ts_ms, ts_ms, ids), limit)

    def note_late(self, ts_ms: int, body: Body, lexicon: Lexicon, limit: int, rate: float | None = 1.0) -> None:
        """Append what came too late for its place as an entry of its own: sessions stay as they were."""
        ids = _markers(lexicon, words.LATE) + event_ids(body, lexicon, "", rate)
        self._keep((ts_ms, ts_ms, ids), limit)

    def close(self, lexicon: Lexicon, limit: int) -> None:
        """End the open session."""
        ids = (self.ids + _markers(lexicon, words.SESSION_END))[-limit * _ID_BYTES :]
        self._keep((self.start_ms, self.last_ms, ids), limit)
        self.events, self.ids, self.said = 0, b"", ""

    def _say(self, body: Body, lexicon: Lexicon, limit: int, rate: float | None) -> None:
        name = name_of(body)
        ids = self.ids + _named_ids(name, body, lexicon, self.said, rate)
        self.ids = ids if len(ids) <= 2 * limit * _ID_BYTES else ids[-limit * _ID_BYTES :]
        self.said = _last_said(name, body)

    def _keep(self, session: tuple[int, int, bytes], limit: int) -> None:
        self.closed.append(session)
        self.closed_bytes += len(session[2])
        drop = 0
        while self.closed_bytes > limit * _ID_BYTES:
            self.closed_bytes -= len(self.closed[drop][2])
            drop += 1
        if drop:
            del self.closed[:drop]


def name_of(body: Body) -> str:
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


def _last_said(name: str, body: Body) -> str:
    """Name of the last event word of :func:`event_ids`: an exchange says two."""
    if isinstance(body, Clickstream) and body.items is not None and basket_of(body).given_back:
        return REFUND
    return name


def event_ids(body: Body, lexicon: Lexicon, said: str, rate: float | None = 1.0) -> bytes:
    """Token ids of one event; the event's own word is left out where ``said`` is the same.

    Args:
        rate: what one unit of the event's currency is worth in the company's, for its price bands; None where that
            is not known, and then there is no price word.
    """
    return _named_ids(name_of(body), body, lexicon, said, rate)


def _named_ids(name: str, body: Body, lexicon: Lexicon, said: str, rate: float | None) -> bytes:
    word = lexicon.word
    ids = b"" if name == said else word(f"evt:{name}") or word(words.CUSTOM_EVENT) or b""
    match body:
        case Clickstream():
            ids += _clickstream_ids(body, lexicon, rate)
        case CampaignSend():
            for field, value in (
                ("camp", body.campaign_id),
                ("tmpl", body.template_id),
                ("offer", body.offer_id),
                ("chan", body.channel),
            ):
                if value is not None:
                    ids += word(f"{field}:{value}") or b""
        case Redemption():
            if body.campaign_id is not None:
                ids += word(f"camp:{body.campaign_id}") or b""
            ids += word(f"offer:{body.offer_id}") or b""
        case Profile():
            pass  # who somebody is, not what happened
    return ids


def _clickstream_ids(body: Clickstream, lexicon: Lexicon, rate: float | None) -> bytes:
    word = lexicon.word
    if body.items is None:
        ids, given_back = _product_ids(body, lexicon, body.price if body.price is not None else body.value, rate), None
    else:
        taken, given_back = basket_of(body)
        ids = b"".join([_product_ids(line, lexicon, line.price, rate) for line in taken])
    if (page := body.page) is not None:
        ids += word(f"page:{page}") or b""
    if (query := body.query) is not None:
        ids += lexicon.text(query)
    if (channel := body.channel) is not None:
        ids += word(f"chan:{channel}") or b""
    if given_back:
        if taken:
            ids += word(f"evt:{REFUND}") or word(words.CUSTOM_EVENT) or b""
        ids += b"".join([_product_ids(line, lexicon, line.price, rate) for line in given_back])
    return ids


def _product_ids(product: Product, lexicon: Lexicon, amount: float | None, rate: float | None) -> bytes:
    ids, word = b"", lexicon.word
    if (category := product.category) is not None:
        ids += word(f"cat:{category}") or lexicon.text(category)
    if (item_id := product.item_id) is not None:
        known = word(f"item:{item_id}")
        if known is not None:
            ids += known
        elif product.title is not None:
            # An item the vocabulary has not seen still has its words, besides category and price.
            ids += lexicon.text(product.title)
    if amount is not None and rate is not None:
        ids += word(words.price_word(abs(amount) * rate)) or b""
    return ids


def _markers(lexicon: Lexicon, *markers: str) -> bytes:
    return b"".join([lexicon.word(marker) or b"" for marker in markers])
