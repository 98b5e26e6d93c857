"""Keys that are no customer ids, though they came as one: what a serialiser, a connector or a missing value made."""

from __future__ import annotations

import unicodedata
from typing import Final

_NOBODY: Final = frozenset(
    {"null", "undefined", "none", "nil", "nan", "(null)", "<null>", "[object object]", "true", "false", "\\n"}
)
_AVRO_HEADER: Final = 5  # a zero byte and the schema's id
_LONG: Final = 8
_INT: Final = 4
_BAD: Final = ("Cc", "Cs", "Zl", "Zp")
_PLAIN: Final = "set the record key to the customer's id as plain UTF-8 text"


def wrapped(key: bytes) -> str | None:
    """Why a key names no customer, and what to do; None for one that may.

    Example:
        >>> wrapped(b"42"), wrapped(b"null")
        (None, "the key is 'null', which names nobody: set the record key to the customer's id as plain UTF-8 text")
    """
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        return f"the key is not UTF-8: {error}{_of_bytes(key)}: {_PLAIN}"
    if text.isprintable() and text[0] not in '"{[ ' and text[-1] not in " " and text.lower() not in _NOBODY:
        return None
    if text.lower() in _NOBODY:
        return f"the key is {text!r}, which names nobody: {_PLAIN}"
    if any(unicodedata.category(one) in _BAD for one in text) or text[0] == "\ufeff":
        return f"the key holds control characters{_of_bytes(key)}: {_PLAIN}"
    if text[0] == '"' and text[-1] == '"':
        return f"the key is a JSON text in quotes: use a string serialiser for keys, as JSON is for values; {_PLAIN}"
    if text[0] in "{[":
        advice = "for Kafka Connect set key.converter=org.apache.kafka.connect.storage.StringConverter"
        return f"the key is a JSON document: {advice}; {_PLAIN}"
    if text != text.strip():
        return f"the key begins or ends with a space, so that it would name another customer: {_PLAIN}"
    return None


def _of_bytes(key: bytes) -> str:
    if len(key) in (_INT, _LONG):
        number = int.from_bytes(key, "big", signed=True)
        return f" (a number in {len(key)} bytes, {number}? Use a string serialiser for keys)"
    if len(key) > _AVRO_HEADER and key[0] == 0:
        return " (framed by a schema registry's serialiser? Use a string serialiser for keys)"
    return ""
