"""A second look at what the strict decoder refused: fields that nobody reads must not cost the event.

What is read as a sum, a time or a name is never guessed: a price that is no number stays a refusal. Everything else is
converted (``42`` as an id is ``"42"``), cut (a URL as a page), or dropped, and said in :attr:`Repaired.repairs`, to be
counted. Slow, and only for records that would be dead letters otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from schemas.channels import canonical
from schemas.consent import CONVERTED, DROPPED, Fields, consent_of
from schemas.events import (
    CAMPAIGN_SENDS,
    CLICKSTREAM,
    CLICKSTREAM_EVENTS,
    GIVING_BACK,
    OF_LINES,
    PROFILES,
    REDEMPTIONS,
    SEND_EVENTS,
)
from schemas.limits import MAX_EVENT_TS_MS, MAX_LINES, MAX_PROPERTIES, MIN_EVENT_TS_MS
from schemas.names import opt_out, spelling

CUT: Final = "cut"

_MAX_ID: Final = 128
_MAX_WORD: Final = 64
_MAX_TEXT: Final = 512
_MAX_INTEGER: Final = 2**53
_MAX_UNITS: Final = 1e6
_MAX_DIGITS: Final = 40
_HASHED: Final = 16  # hexadecimal digits that tell long ids apart
_MONEY: Final = CLICKSTREAM_EVENTS & ({"purchase"} | GIVING_BACK)

_IDS: Final = (
    "event_id", "customer_id", "item_id", "order_id", "campaign_id", "template_id", "offer_id", "send_id",
    "decision_id",
)  # fmt: skip
_WORDS: Final = ("category", "channel", "timezone")
_TEXTS: Final = ("title", "query")


class Repaired(NamedTuple):
    """What is decoded instead, and what was done to it."""

    fields: Fields
    repairs: tuple[str, ...]
    """``field kind`` each, the kind one of ``converted``, ``cut`` and ``dropped``."""


def loosely(value: bytes) -> Any:
    """JSON as Python's parser has it, numbers beyond all bounds included.

    Raises:
        ValueError: it is none.
    """
    return json.loads(value, parse_int=_integer, parse_float=float, parse_constant=_no_constant)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def opt_out_of(source_index: int, fields: Mapping[str, Any]) -> str | None:
    """Which opt-out a record of a source topic means; None where it means none."""
    name = fields.get("event")
    return opt_out(name) if source_index == CAMPAIGN_SENDS and isinstance(name, str) else None


def repaired(source_index: int, fields: Fields, record_ts_ms: int, max_future_ms: int) -> Repaired:
    """A record that may be decoded now; what is still wrong with it is for the decoder to say.

    Args:
        fields: the object as it came.
        record_ts_ms: Kafka timestamp of the record, for an opt-out whose own time cannot be true.
        max_future_ms: how far a time may be past it.

    Raises:
        InvalidField: consent cannot be read.
    """
    work = _Work(dict(fields))
    work.times()
    if source_index == CLICKSTREAM:
        work.event(CLICKSTREAM_EVENTS)
        work.amounts()
        work.change("page", _id_cut)
        work.change("properties", _properties)
    elif source_index == CAMPAIGN_SENDS:
        if (meant := opt_out_of(source_index, fields)) is not None:
            work.opt_out(meant, record_ts_ms, max_future_ms)
        else:
            work.event(SEND_EVENTS)
        work.change("propensity", _probability)
    elif source_index == REDEMPTIONS:
        work.change("value", _amount)
    elif source_index == PROFILES:
        work.change("attributes", _properties)
        if "consent" in fields:
            work.fields["consent"], kinds = consent_of(fields["consent"])
            work.tell("consent", kinds)
    for name in _IDS:
        work.change(name, _id)
    for name in _WORDS:
        work.change(name, _word)
    for name in _TEXTS:
        work.change(name, _text)
    if source_index == CLICKSTREAM:
        work.lines()  # when it is known whether there is a product beside them
    return Repaired(work.fields, tuple(dict.fromkeys(work.repairs)))


#: Of an opt-out whose time cannot be read; :mod:`schemas.codec` dates it, and tells of that.
UNDATED_MS: Final = MIN_EVENT_TS_MS


def believable_ms(given: object, record_ts_ms: int, max_future_ms: int) -> int | None:
    """When an opt-out was, from a time in whatever unit; None where none of them can be true.

    Of a time in seconds the end of the second counts: consent that was given within it is taken back.
    """
    if isinstance(given, str) and given.strip().lstrip("+").isdigit() and len(given) <= _MAX_DIGITS:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    latest_ms = min(MAX_EVENT_TS_MS, record_ts_ms + max_future_ms)
    units = (int(given), math.floor(given * 1_000) + 999, int(given) // 1_000, int(given) // 1_000_000)
    return next((ms for ms in units if MIN_EVENT_TS_MS <= ms <= latest_ms), None)


class _Work:
    """One record on its way."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.repairs: list[str] = []

    def tell(self, field: str, kinds: tuple[str, ...]) -> None:
        self.repairs += [f"{field} {kind}" for kind in kinds]

    def change(self, name: str, repair: Callable[[Any], tuple[Any, tuple[str, ...]]]) -> None:
        """Make one field fit; what comes out as None is dropped."""
        given = self.fields.get(name)
        if given is None:
            return
        fit, kinds = repair(given)
        self.tell(name, kinds)
        if fit is None:
            del self.fields[name]
        else:
            self.fields[name] = fit

    def times(self) -> None:
        self.change("event_ts_ms", _whole)
        self.change("window_end_ms", _end)

    def event(self, known: frozenset[str] | tuple[str, ...]) -> None:
        name = self.fields.get("event")
        # A space at an end, or what nobody sees, is no other way to write a name.
        if not isinstance(name, str) or name != name.strip() or not name.isprintable():
            return
        meant = spelling(name, sorted(known))
        if meant is not None and meant != name:
            self.fields["event"] = meant
            self.tell("event", (CONVERTED,))

    def opt_out(self, meant: str, record_ts_ms: int, max_future_ms: int) -> None:
        """Nothing but the customer is needed, and the channel where it can be read."""
        fields = self.fields
        if fields.get("event") != meant:
            fields["event"] = meant
            self.tell("event", (CONVERTED,))
        channel = fields.get("channel")
        if channel is not None and not (
            isinstance(channel, str) and 0 < len(channel) <= _MAX_WORD and canonical(channel)
        ):
            del fields["channel"]
            self.tell("channel", (DROPPED,))
        at_ms = believable_ms(fields.get("event_ts_ms"), record_ts_ms, max_future_ms)
        if at_ms is None:
            fields["event_ts_ms"] = UNDATED_MS
        elif fields.get("event_ts_ms") != at_ms or isinstance(fields["event_ts_ms"], bool):
            fields["event_ts_ms"] = at_ms
            self.tell("event_ts_ms", (CONVERTED,))

    def amounts(self) -> None:
        """Where an event counts no money, or its value says it all, the other amounts are read by nobody."""
        fields = self.fields
        if not self.counts_money():
            self.change("value", _amount)
            self.change("currency", _currency)
            self.change("price", _amount)
            self.change("quantity", _units)
        elif _is_amount(fields.get("value")):
            self.change("price", _amount)
            self.change("quantity", _signed_units)
        elif not _says_amount(fields):
            self.change("currency", _currency)

    def counts_money(self) -> bool:
        name = self.fields.get("event")
        return not isinstance(name, str) or name in _MONEY

    def lines(self) -> None:
        """Each is made to fit. Where no money is counted a bad one is dropped, and so are all beside a product."""
        given, counts = self.fields.get("items"), self.counts_money()
        if not counts and given and (not isinstance(given, list) or self._has_product()):
            del self.fields["items"]
            self.tell("items", (DROPPED,))
        elif isinstance(given, list):
            fit = [self._line(line, counts) if isinstance(line, dict) else line for line in given]
            kept = fit if counts else [one for one in fit if isinstance(one, dict) and "item_id" in one]
            self.tell("items", (DROPPED,) if len(kept) < len(fit) else ())
            if not counts and len(kept) > MAX_LINES:
                kept = kept[:MAX_LINES]
                self.tell("items", (CUT,))
            self.fields["items"] = kept

    def _has_product(self) -> bool:
        return any(self.fields.get(name) is not None for name in OF_LINES)

    def _line(self, line: Fields, counts: bool) -> Fields:
        work = _Work(dict(line))
        work.change("item_id", _id)
        work.change("category", _word)
        work.change("title", _text)
        if not counts or _is_amount(self.fields.get("value")):
            work.change("price", _amount)
            work.change("quantity", _signed_units if counts else _units)
        self.tell("items", tuple(repair.rpartition(" ")[2] for repair in work.repairs))
        return work.fields


def _whole(given: Any) -> tuple[Any, tuple[str, ...]]:
    """Milliseconds that came as a whole float, or as digits in quotes."""
    if isinstance(given, float) and given.is_integer():
        return int(given), (CONVERTED,)
    if isinstance(given, str) and given.strip().isascii() and given.strip().isdigit() and len(given) <= _MAX_DIGITS:
        return int(given), (CONVERTED,)
    return given, ()


def _end(given: Any) -> tuple[Any, tuple[str, ...]]:
    fit, kinds = _whole(given)
    if isinstance(fit, int) and not isinstance(fit, bool) and MIN_EVENT_TS_MS <= fit <= MAX_EVENT_TS_MS:
        return fit, kinds
    return None, (DROPPED,)


def _plain(given: Any) -> str | None:
    """Text, or a number as text; None for what is neither."""
    if isinstance(given, str):
        return given
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    return str(int(given)) if isinstance(given, float) and given.is_integer() else str(given)


def _id(given: Any) -> tuple[Any, tuple[str, ...]]:
    plain = _plain(given)
    if not plain:
        return None, (DROPPED,)
    kinds = () if isinstance(given, str) else (CONVERTED,)
    if len(plain) <= _MAX_ID:
        return plain, kinds
    return shortened(plain, _MAX_ID), (*kinds, CUT)


def shortened(text: str, most: int) -> str:
    """The beginning of a text, and a hash of the whole, in ``most`` characters: two must not become one."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASHED // 2).hexdigest()
    return f"{text[: most - _HASHED - 1]}~{digest}"


def _id_cut(given: Any) -> tuple[Any, tuple[str, ...]]:
    """A page: of a URL that is too long, what stands before the question mark, as far as there is room."""
    plain = _plain(given)
    if plain is not None and len(plain) > _MAX_ID:
        return plain.partition("?")[0][:_MAX_ID] or plain[:_MAX_ID], (CUT,)
    return _id(given)


def _cut_to(most: int, given: Any, *, empty: bool) -> tuple[Any, tuple[str, ...]]:
    plain = _plain(given)
    if plain is None or (not plain and not empty):
        return None, (DROPPED,)
    kinds = () if isinstance(given, str) else (CONVERTED,)
    return (plain, kinds) if len(plain) <= most else (plain[:most], (*kinds, CUT))


def _word(given: Any) -> tuple[Any, tuple[str, ...]]:
    return _cut_to(_MAX_WORD, given, empty=False)


def _text(given: Any) -> tuple[Any, tuple[str, ...]]:
    return _cut_to(_MAX_TEXT, given, empty=True)


def _is_amount(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= 1e9


def _amount(given: Any) -> tuple[Any, tuple[str, ...]]:
    return (given, ()) if _is_amount(given) else (None, (DROPPED,))


def _signed_units(given: Any) -> tuple[Any, tuple[str, ...]]:
    return (given, ()) if _is_amount(given) and abs(given) <= _MAX_UNITS else (None, (DROPPED,))


def _units(given: Any) -> tuple[Any, tuple[str, ...]]:
    return _signed_units(given) if _is_amount(given) and given >= 0 else (None, (DROPPED,))


def _says_amount(fields: Fields) -> bool:
    """Whether a sum of money is meant anywhere, so that it matters in which currency."""
    lines = fields.get("items")
    parts = [fields, *(line for line in lines if isinstance(line, dict))] if isinstance(lines, list) else [fields]
    return fields.get("value") is not None or any(part.get("price") is not None for part in parts)


def _currency(given: Any) -> tuple[Any, tuple[str, ...]]:
    known = isinstance(given, str) and len(given) == 3 and given.isascii() and given.isalpha()
    return (given, ()) if known else (None, (DROPPED,))


def _probability(given: Any) -> tuple[Any, tuple[str, ...]]:
    return (given, ()) if _is_amount(given) and 0 <= given <= 1 else (None, (DROPPED,))


def _properties(given: Any) -> tuple[Any, tuple[str, ...]]:
    """Scalars under short names; what nests becomes text, and what is more than fits is dropped."""
    if not isinstance(given, dict):
        return None, (DROPPED,)
    fit: Fields = {}
    done: list[str] = []
    for name, inner in given.items():
        if not name or len(fit) == MAX_PROPERTIES:
            done.append(DROPPED)
            continue
        if len(name) > _MAX_WORD:
            done.append(CUT)
        value, kinds = _scalar(inner)
        done += kinds
        fit[name[:_MAX_WORD]] = value
    return fit, tuple(dict.fromkeys(done))


def _scalar(given: Any) -> tuple[Any, tuple[str, ...]]:
    if given is None or isinstance(given, bool):
        return given, ()
    if isinstance(given, str):
        return _text(given)
    if isinstance(given, int | float):
        if isinstance(given, float) and not math.isfinite(given):
            return None, (DROPPED,)
        if isinstance(given, float) and abs(given) > 1e9 and given.is_integer() and abs(given) <= _MAX_INTEGER:
            return int(given), (CONVERTED,)
        most = _MAX_INTEGER if isinstance(given, int) else 1e9
        return (given, ()) if abs(given) <= most else (str(given), (CONVERTED,))
    text = json.dumps(given, ensure_ascii=False, separators=(",", ":"), default=str)
    return (text, (CONVERTED,)) if len(text) <= _MAX_TEXT else (text[:_MAX_TEXT], (CONVERTED, CUT))
