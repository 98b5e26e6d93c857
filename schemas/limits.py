"""Limits on everything that comes from outside, as annotated types and plain numbers.

A limit is part of the contract: a value beyond it goes to the dead-letter topic, so that no state
record, timeline or metric can be blown up by one producer.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

MAX_KEY_BYTES: Final = 256
MAX_PAYLOAD_BYTES: Final = 65_536
MAX_HEADERS_BYTES: Final = 16_384
MAX_PROPERTIES: Final = 64
#: Objects and arrays inside one another, the record's own object included.
MAX_NESTING: Final = 500
#: Lines of one event. A larger order is several events with one ``order_id``.
MAX_LINES: Final = 200

# 2000-01-01T00:00:00Z. Older than any event stream; catches seconds sent as milliseconds.
MIN_EVENT_TS_MS: Final = 946_684_800_000
# 2100-01-01T00:00:00Z. Catches microseconds sent as milliseconds before the clock check does.
MAX_EVENT_TS_MS: Final = 4_102_444_800_000

Id = Annotated[str, Meta(min_length=1, max_length=128)]
EventName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_.:-]*\Z")]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=512)]
TimestampMs = Annotated[int, Meta(ge=MIN_EVENT_TS_MS, le=MAX_EVENT_TS_MS)]
Quantity = Annotated[float, Meta(ge=-1e6, le=1e6)]
"""Below 0 only where it means a return, see :class:`schemas.events.Clickstream`."""
Currency = Annotated[str, Meta(min_length=3, max_length=3, pattern=r"^[A-Za-z]{3}\Z")]
Money = Annotated[float, Meta(ge=-1e9, le=1e9)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Scalar = Annotated[str, Meta(max_length=512)] | bool | Annotated[int, Meta(ge=-(2**53), le=2**53)] | Money | None
Consent = Annotated[dict[Word, Annotated[dict[Word, bool], Meta(max_length=8)]], Meta(max_length=16)]
Properties = Annotated[dict[Word, Scalar], Meta(max_length=MAX_PROPERTIES)]
