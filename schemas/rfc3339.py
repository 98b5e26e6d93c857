"""Times as RFC 3339 writes them, in all its forms, to milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_FORM: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt _](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,30}))?\s?(?:([Zz])|([+-])(\d\d):?(\d\d))"
)
_WITHOUT_OFFSET: Final = re.compile(r"\d{4}-\d\d-\d\d([Tt _]\d\d:\d\d(:\d\d([.,]\d+)?)?)?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LEAP: Final = 60


class NotATime(ValueError):
    """The message says what is wrong, and how a time is written."""


def parse_ms(text: str) -> int:
    """Epoch milliseconds of a time; what is finer is cut off, a leap second is the one after it.

    Raises:
        NotATime: it is none.

    Example:
        >>> [parse_ms(text) for text in ("2017-07-14t02:40:00z", "2017-07-14 04:40:00.000999+02:00")]
        [1500000000000, 1500000000000]
    """
    text = text.strip()
    found = _FORM.fullmatch(text)
    if found is None or not text.isascii():
        if _WITHOUT_OFFSET.fullmatch(text):
            raise NotATime(f"{text!r} has no UTC offset: write 2017-07-14T02:40:00Z")
        raise NotATime(f"{text[:64]!r} is not an RFC 3339 time, such as 2017-07-14T02:40:00Z")
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    fraction, sign, hours, minutes = found.group(7), found.group(9), found.group(10), found.group(11)
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        if int(hours or 0) > 23 or int(minutes or 0) > 59 or second > _LEAP:
            raise ValueError("out of range")
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        raise NotATime(f"{text!r} is not a time that there is") from None
    since = (moment - _EPOCH) // timedelta(milliseconds=1) + 1_000 * (second == _LEAP)
    shift = offset // timedelta(milliseconds=1)
    return since + int(((fraction or "") + "000")[:3]) + (shift if sign == "-" else -shift)
