"""What a refusal of a field says: what is wrong, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from schemas import errors
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, CLICKSTREAM_EVENTS, SEND_EVENTS, SOURCES, type_by_source
from schemas.limits import MAX_EVENT_TS_MS, MAX_LINES, MIN_EVENT_TS_MS
from schemas.names import is_plainly_opt_out, suggestion

_ISO: Final = re.compile(r"\s*\d{4}-\d\d-\d\d([T t_].*)?", re.DOTALL)
_PATH: Final = re.compile(r" - at `\$\.?([A-Za-z_]*)")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_AMOUNTS: Final = ("price", "value", "quantity", "propensity")
_SHOWN: Final = 80


def field_error(source_index: int, fields: Mapping[str, Any], said: str) -> errors.DeadLetter:
    """The refusal of a record one of whose fields the decoder did not take.

    A wrong time has a class of its own, because it is a producer's clock and not its schema.

    Args:
        said: the decoder's message.
    """
    where = _PATH.search(said)
    name = where.group(1) if where is not None else ""
    if name == "event_ts_ms":
        return _time_error(fields.get(name), said)
    if (missing := _MISSING.search(said)) is not None and not name:
        known = type_by_source[SOURCES[source_index]].__struct_fields__
        near = suggestion(missing.group(1), [other for other in fields if other not in known])
        return errors.InvalidField(said + near.replace("the nearest name is", "is it what you call"))
    return errors.InvalidField(said + _advice(source_index, name, fields.get(name)))


def _time_error(given: object, said: str) -> errors.DeadLetter:
    if isinstance(given, str):
        what = "ISO 8601" if _ISO.fullmatch(given) else "text"
        return errors.InvalidField(
            f"event_ts_ms takes epoch milliseconds, a whole number such as {MIN_EVENT_TS_MS}; this looks like {what}: "
            f"{given[:_SHOWN]}"
        )
    if isinstance(given, bool) or not isinstance(given, int | float):
        return errors.InvalidField(f"{said}: event_ts_ms takes epoch milliseconds, a whole number")
    if MIN_EVENT_TS_MS <= given <= MAX_EVENT_TS_MS:
        return errors.InvalidField(f"event_ts_ms takes whole epoch milliseconds: cut the fraction of {given}")
    units = {1_000: "seconds", 1 / 1_000: "microseconds", 1 / 1_000_000: "nanoseconds"}
    for factor, unit in units.items():
        if MIN_EVENT_TS_MS <= given * factor <= MAX_EVENT_TS_MS:
            return errors.OutOfTime(f"event_ts_ms takes epoch milliseconds; {given} looks like {unit}")
    shown = str(given)
    return errors.OutOfTime(f"event_ts_ms {shown[:_SHOWN]} is not a time in epoch milliseconds from 2000 to 2100")


def _advice(source_index: int, name: str, given: object) -> str:
    if name == "event" and isinstance(given, str):
        if source_index == CLICKSTREAM and is_plainly_opt_out(given):
            return f": {given[:_SHOWN]!r} belongs on {SOURCES[CAMPAIGN_SENDS]}"
        known = {CLICKSTREAM: sorted(CLICKSTREAM_EVENTS), CAMPAIGN_SENDS: list(SEND_EVENTS)}.get(source_index, [])
        return f": {given[:_SHOWN]!r} is no event name{suggestion(given, known)}"
    if name in _AMOUNTS and isinstance(given, str):
        return f": {name} takes a number; write it without quotes, and with a point: 9.99"
    if name == "currency":
        return ": currency takes three letters of ISO 4217, such as EUR"
    if name == "items" and isinstance(given, list) and len(given) > MAX_LINES:
        return f": send an order of more than {MAX_LINES} lines as several events with one order_id"
    return ""
