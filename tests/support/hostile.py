"""Payloads that nobody should send: valid ones spoilt by a seeded hand, and ones made to hurt."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS
from schemas.heartbeat import HEARTBEAT_KEY
from schemas.nesting import too_deep
from streams.core.config import DAY_MS

Headers = tuple[tuple[str, Any], ...]


class Payload(NamedTuple):
    """One record before it has an offset."""

    source_index: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int


CUSTOMERS: Final = 300
_EVENTS: Final = ("purchase", "item_view", "page_view", "search", "add_to_cart", "app_open", "loyalty_scan")
_SENDS: Final = ("send", "delivered", "open", "click", "bounce", "unsubscribe", "complaint")
_TEXTS: Final = (
    "",
    "a",
    "☕",
    "\x00",
    "[SESSION]",
    "item:5",
    "\u202e",
    "x" * 64,
    "x" * 128,
    "x" * 513,
    "\U0010ffff",
    "𝕏" * 64,
)
_NUMBERS: Final[tuple[Any, ...]] = (
    0, -1, 1, 0.1, -0.0, 1e308, 5e-324, 1e9, 1e9 + 1, 1e6, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**40,
    float("nan"), float("inf"), True, None, "1", [], {},
)  # fmt: skip
_BOMB: Final = gzip.compress(b"\x00" * 10_000_000, mtime=0)
_DEFLATED: Final = zlib.compress(b"[" * 1_000_000)
_MEGABYTE: Final = b"k" * (1 << 20)


def payloads(seed: int, count: int, start_ms: int, *, largest_bytes: int = 1 << 21) -> Iterator[Payload]:
    """Half valid or nearly so, half spoilt or hostile; the same for the same seed.

    Args:
        largest_bytes: no key, value or headers beyond this: what a broker would not take is no test of ours.
    """
    rng = random.Random(seed)
    now_ms = start_ms
    made = 0
    last: deque[Payload] = deque(maxlen=50)
    while made < count:
        now_ms += rng.choice((0, 0, 1, 1_000, 60_000, 1_900_000))
        if last and rng.random() < 0.05:
            payload = rng.choice(last)  # sent again
        else:
            payload = _spoilt(rng, _valid(rng, now_ms))
            last.append(payload)
        size = max(
            len(payload.key or b""), len(payload.value or b""), sum(len(raw or b"") for _, raw in payload.headers)
        )
        if size <= largest_bytes:
            yield payload
            made += 1


def _valid(rng: random.Random, now_ms: int) -> Payload:
    source_index = rng.choices((CLICKSTREAM, CAMPAIGN_SENDS, REDEMPTIONS, PROFILES), (6, 2, 1, 1))[0]
    body: dict[str, Any] = {"event_ts_ms": now_ms - rng.choice((0, 0, 0, 50, 250_000, 10_000_000))}
    if rng.random() < 0.7:
        body["event_id"] = f"e{rng.getrandbits(64)}"
    if source_index == CLICKSTREAM:
        body |= {"event": rng.choice(_EVENTS), "item_id": f"i{rng.randrange(50)}", "category": "coffee", "price": 2.5}
    elif source_index == CAMPAIGN_SENDS:
        body |= {
            "event": rng.choice(_SENDS),
            "campaign_id": f"c{rng.randrange(5)}",
            "channel": "email",
            "offer_id": "o",
        }
    elif source_index == REDEMPTIONS:
        body |= {"offer_id": "o", "campaign_id": f"c{rng.randrange(5)}", "value": 1.0}
    else:
        body |= {"consent": {"email": {"marketing": rng.random() < 0.5}}, "timezone": "Europe/Berlin"}
    value = None if source_index == PROFILES and rng.random() < 0.1 else json.dumps(body).encode()
    return Payload(source_index, b"c%d" % rng.randrange(CUSTOMERS), value, (), now_ms)


def _spoilt(rng: random.Random, payload: Payload) -> Payload:
    if rng.random() < 0.35:
        return payload
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        payload = rng.choice(_HANDS)(rng, payload)
    return payload


_OTHERS: Final = (
    "event_ts_ms", "properties", "title", "quantity", "window_end_ms", "propensity", "customer_id", "items", "currency",
    "channel", "consent", "optOut", "status",
)  # fmt: skip


def _field(rng: random.Random, payload: Payload) -> Payload:
    """One field gets something it should not have."""
    body = _body(payload)
    name = rng.choice((*body, *_OTHERS))
    body[name] = rng.choice((rng.choice(_NUMBERS), rng.choice(_TEXTS), _nest(rng, rng.randrange(60)), [1], {"a": 1}))
    if rng.random() < 0.2:
        body.pop(rng.choice(list(body)))
    return payload._replace(value=json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))


def _time(rng: random.Random, payload: Payload) -> Payload:
    """A time in seconds, in microseconds, in the future, at the edges, or far too large to be a number."""
    now_ms = payload.timestamp
    times = (now_ms // 1000, now_ms * 1000, now_ms + DAY_MS, now_ms - 400 * DAY_MS, 946_684_800_000, 4_102_444_800_000,
             4_102_444_800_001, -1, 0, 2**63, 2**64 + 1, 10**400, float(now_ms), 1e300)  # fmt: skip
    return payload._replace(value=json.dumps(_body(payload) | {"event_ts_ms": rng.choice(times)}).encode())


def _record_time(rng: random.Random, payload: Payload) -> Payload:
    """The record's own clock is wrong."""
    return payload._replace(timestamp=rng.choice((-1, 0, payload.timestamp + 400 * DAY_MS, 2**62)))


def _bytes(rng: random.Random, payload: Payload) -> Payload:
    """Bits flipped, bytes cut, doubled, swapped or put in."""
    value = bytearray(payload.value or b"{}")
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(value) or 1)
        match rng.randrange(5):
            case 0 if value:
                value[at] ^= 1 << rng.randrange(8)
            case 1:
                del value[at : at + rng.randrange(1, 9)]
            case 2:
                value[at:at] = rng.choice(
                    (b"\x00", b"\xff", b'"', b"\\", b"\\ud800", b"}", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf")
                )
            case 3:
                value += value[at:]
            case _:
                value[at:at] = rng.randbytes(rng.randrange(1, 12))
        if not value:
            break
    return payload._replace(value=bytes(value))


def _hostile(rng: random.Random, payload: Payload) -> Payload:
    """A value made to hurt."""
    body = json.dumps(_body(payload)).encode()[:-1]
    ts_ms = payload.timestamp
    kinds: tuple[Callable[[], bytes | None], ...] = (
        lambda: b"[" * rng.choice((10, 900, 30_000)),
        lambda: b'{"a":' * rng.choice((10, 900, 10_000)) + b"1" + b"}" * 900,
        lambda: body + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        lambda: body + b',"price":' + b"9" * rng.choice((20, 400, 60_000)) + b"}",
        lambda: body + b',"price":1e' + b"9" * rng.choice((3, 300)) + b"}",
        lambda: body + b',"value":0.' + b"0" * 50_000 + b"1}",
        lambda: body + b',"item_id":"\\ud800"}',
        lambda: body + b',"item_id":"\\u0000"}',
        lambda: body + b',"event":"purchase","event":"search","event_ts_ms":%d}' % ts_ms,
        lambda: body + b"," + b",".join(b'"k%d":%d' % (n, n) for n in range(3_000)) + b"}",
        lambda: body + b',"properties":{' + b",".join(b'"k%d":%d' % (n, n) for n in range(64)) + b"}}",
        lambda: body + b',"properties":{' + b",".join(b'"k%d":%d' % (n, n) for n in range(65)) + b"}}",
        lambda: body + b',"title":"' + b"x" * rng.choice((512, 513, 65_000, 70_000)) + b'"}',
        lambda: body + b',"consent":{"' + b'":{"a":true},"'.join(b"ch%d" % n for n in range(2_000)) + b'":{"a":true}}}',
        lambda: b"x" * (1 << 20),
        lambda: _BOMB,
        lambda: _DEFLATED,
        lambda: b"\x00" * rng.choice((1, 100, 65_536)),
        lambda: rng.randbytes(rng.choice((1, 30, 3_000))),
        lambda: body.decode().encode("utf-16"),
        lambda: b" " * 60_000 + body + b"}",
        lambda: None,
        lambda: b"",
    )
    return payload._replace(value=rng.choice(kinds)())


def _key(rng: random.Random, payload: Payload) -> Payload:
    keys = (None, b"", b"\xff\xfe", b"\x00", "ü€𝕏".encode(), b"k" * 128, b"k" * 129, b"k" * 257, _MEGABYTE,
            HEARTBEAT_KEY, b"\xed\xa0\x80", b"c1\x00", rng.randbytes(4))  # fmt: skip
    return payload._replace(key=rng.choice(keys))


def _heads(rng: random.Random, payload: Payload) -> Payload:
    some: tuple[Headers, ...] = (
        (("ce_id", b"\xff"),),
        (("ce_id", None),),
        (("ce_id", b""),),
        (("ce_id", b"e%d" % rng.randrange(1_000)),),
        (("ce_time", b"0001-01-01T00:00:00+23:59"),),
        (("ce_time", b"9999-12-31T23:59:59-23:59"),),
        (("ce_time", b"x" * 100),),
        (("content-encoding", b"gzip"), ("bomb", _BOMB)),
        (("bomb", b"\x00" * (1 << 20)),),
        tuple((f"h{n}", b"x") for n in range(3_000)),
        (("", b""), ("\x00", b"\x00"), ("ü", b"\xff")),
        (("dl_attempt", b"9" * 100), ("dl_id", b"clickstream-0-0"), ("orig_x", None)),
        (("dl_attempt", b"-1"), ("dl_attempt", b"2"), ("dl_replayed_from", b"\xff")),
    )
    return payload._replace(headers=rng.choice(some))


_HANDS: Final = (_field, _field, _time, _bytes, _bytes, _hostile, _key, _heads, _record_time)


def _body(payload: Payload) -> dict[str, Any]:
    value = payload.value or b"{}"
    try:
        body = None if too_deep(value) else json.loads(value)  # how deep json itself goes differs between Pythons
    except (ValueError, RecursionError):
        body = None
    return body if isinstance(body, dict) and body else {"event_ts_ms": payload.timestamp, "event": "purchase"}


def _nest(rng: random.Random, depth: int) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner] if rng.random() < 0.5 else {"n": inner}
    return inner
