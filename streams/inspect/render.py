"""Any record of ours as plain JSON values with names, for people and scripts.

Internal records are arrays on the wire; here their fields have names again, words are hashes and
features are named.
"""

from __future__ import annotations

from array import array
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas import features
from schemas.graph import EDGE_TYPES
from schemas.snapshot import EDGE, EdgeBlock, Recent, Session, Snapshot, age_hours, sessions
from schemas.topics import TOPICS, changelog_of
from schemas.words import HASH_BYTES, split
from streams.agents.registry import STATEFUL, StoredTypes
from streams.core.customer import OlderSessions
from streams.core.event import StoredEvent
from streams.core.event import restore as restore_event
from streams.core.history import History, Tally
from streams.core.timeline import Timeline
from streams.state import keys

_decode_json: Final = msgspec.json.Decoder().decode
_decode_internal: Final[dict[str, Callable[[bytes], Any]]] = {
    topic.name: msgspec.msgpack.Decoder(topic.record).decode
    for topic in TOPICS.values()
    if topic.format == "msgpack" and topic.record is not None
}


def _changelog_decoders(stored: StoredTypes) -> dict[bytes, Callable[[bytes], Any]]:
    return {
        keys.RECORD: msgspec.msgpack.Decoder(stored.record).decode,
        keys.META: msgspec.msgpack.Decoder(stored.meta).decode,
        keys.CLAIM: int,
        **{keys.PIECE + kind: decode for kind, decode in stored.piece_decoders().items()},
    }


_decode_changelog: Final = {changelog_of(role): _changelog_decoders(stored) for role, stored in STATEFUL.items()}

#: Fields of a session that hold a word, or 0 for none.
_SESSION_WORDS: Final = ("channel", "category", "second_category", "third_category", "item", "second_item")

Headers = Sequence[tuple[str, str | bytes | None]]


def value_of(topic: str, key: bytes | None, value: bytes | None) -> Any:
    """A record's value with names; None for a null.

    Args:
        topic: logical name.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: not a value of that topic.
    """
    if value is None:
        return None
    if topic in _decode_changelog:
        return stored_value(_decode_changelog[topic], key or b"", value)
    if topic in _decode_internal:
        return plain(_decode_internal[topic](value))
    return _decode_json(value)


def stored_value(decoders: Mapping[bytes, Callable[[bytes], Any]], key: bytes, value: bytes) -> Any:
    """A record of a changelog or store with names.

    Raises:
        msgspec.DecodeError: not a record of such a key.
    """
    kind = key[:1]
    if kind == keys.PIECE:
        kind += keys.parse_piece(key)[1][:1]
    if kind not in decoders:
        raise msgspec.DecodeError(f"no record has a key like {key!r}")
    return plain(decoders[kind](value))


def refused_value(value: bytes | None, headers: Headers) -> dict[str, Any]:
    """A dead letter: why, from where, and what it was, as text where it is text."""
    named = {name: _text(raw) if isinstance(raw, bytes) else raw for name, raw in headers}
    return {
        "reason": named.get("dl_reason"),
        "error": named.get("dl_error"),
        "message": named.get("dl_message"),
        "cut": named.get("dl_cut"),
        "origin": {name: named.get(f"dl_{name}") for name in ("topic", "partition", "offset", "record_ts_ms")},
        "headers": {name.removeprefix("orig_"): text for name, text in named.items() if name.startswith("orig_")},
        "value": None if value is None else _text(value),
    }


def plain(value: Any) -> Any:
    """Structs as dicts by field name, bytes as base64 where nothing better is known."""
    match value:
        case Snapshot():
            history = plain(list(sessions(value.history)))
            return _fields(value) | {"features": feature_values(value.features), "history": history}
        case Recent():
            return [{"at_ms": at_ms, "words": word_hashes(words)} for at_ms, words in value]
        case EdgeBlock():
            edges = {_edge_type(index): _edges(column) for index, column in value.edges.items()}
            return {"as_of_ms": value.as_of_ms, "edges": edges}
        case History():
            return _fields(value) | {"fresh": plain(list(sessions(value.fresh)))}
        case OlderSessions():
            return _fields(value) | {"entries": plain(list(sessions(value.entries)))}
        case StoredEvent():
            return plain(restore_event(value))
        case Tally():
            counts = {"categories": value.categories, "items": value.items}
            named = {name: {word.hex(): lines for word, lines in found.items()} for name, found in counts.items()}
            return _fields(value) | named | {"channel": value.channel.hex() or None}
        case Timeline():
            columns = dict.fromkeys(("at_s", "lengths", "words"))
            named = {name: field for name, field in _fields(value).items() if name not in columns}
            return named | {"recent": plain(value.recent)}
        case msgspec.Struct():
            return _fields(value)
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case Session():
            words = {name: getattr(value, name) for name in _SESSION_WORDS}
            return value._asdict() | {name: _word_hash(word) if word else None for name, word in words.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case bytes():
            return _text(value)
        case _:
            return value


def word_hashes(words: bytes) -> list[str]:
    """Hashes of words in hexadecimal digits, as on the topic ``words``."""
    return [word.hex() for word in split(words)]


def _word_hash(word: int) -> str:
    return word.to_bytes(HASH_BYTES, "little").hex()


def _edge_type(index: int) -> str:
    """Its name; the number of one that a newer release has."""
    return EDGE_TYPES[index] if 0 <= index < len(EDGE_TYPES) else f"#{index}"


def _edges(column: bytes) -> list[dict[str, Any]]:
    return [
        {
            "word": word.hex(),
            "weight": weight,
            "count": count,
            "age_hours": round(age_hours(age), 2),
        }
        for word, weight, count, age in EDGE.iter_unpack(column)
    ]


def feature_values(raw: bytes) -> dict[str, float]:
    """float32 little-endian values by the names of :data:`schemas.features.NAMES`."""
    values = array("f", raw)
    return {name: round(number, 6) for name, number in zip(features.NAMES, values, strict=False)}


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    said = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return {name: plain(value) for name, value in said.items() if value is not msgspec.UNSET}


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return f"base64:{b64encode(raw).decode()}"


def stored_key_text(key: bytes | None) -> str | None:
    """A changelog's key for people; a piece's is ``p``, whose, ``/``, and its name, in hex where that is no text."""
    if key is None or not key.startswith(keys.PIECE):
        return key_text(key)
    identity, name = keys.parse_piece(key)
    rest = name[1:].decode() if name[1:].isalnum() else name[1:].hex()
    return f"p{identity}/{name[:1].decode()}{rest}"


def key_text(key: bytes | None) -> str | None:
    """A record key for people; base64 where it is no text."""
    return None if key is None else _text(key)
