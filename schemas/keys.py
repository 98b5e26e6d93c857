"""Keys that are no customer ids, though they came as one: what a serialiser, a connector or a missing value made."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_NOBODY: Final = frozenset(
    {"null", "undefined", "none", "nil", "nan", "(null)", "<null>", "[object object]", "true", "false", "\\n",
     "unknown", "n/a", "#n/a", "n.a.", "(none)", "(unknown)", "(not set)", "(empty)", "-", "--", "?"}
)  # fmt: skip
#: A variable that nobody filled in: ${id}, %{id}, #{id}, %id%, %(id)s, <id>.
_TEMPLATE: Final = re.compile(r".*[$%#]\{.*|.*\{\{.*|%.+%|%\(.+\)[sd]|<.+>|\$\w*[A-Za-z_]\w*")
#: An object as Java, Scala or Python print it: Struct{id=42}, Some(42), User[id=42], Customer@1f2e3d, b'42'.
_PRINTED: Final = re.compile(
    r"[A-Za-z_][\w.$]*(?:\{.*\}|\(.*\)|\[.*\])|(?:[\w$]+\.)*[A-Z][\w$]*@[0-9a-f]{5,8}|[bu]'.*'"
)
_AVRO_HEADER: Final = 5  # a zero byte and the schema's id
_LONG: Final = 8
_INT: Final = 4
_BAD: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
_QUOTES: Final = "\"'`"
_SUSPECT: Final = frozenset(" {[($#%<@" + _QUOTES)
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
    if text.isprintable() and text.lower() not in _NOBODY and _SUSPECT.isdisjoint(text):
        return None
    if text.lower() in _NOBODY:
        return f"the key is {text!r}, which names nobody: {_PLAIN}"
    if any(unicodedata.category(one) in _BAD for one in text):
        return f"the key holds control characters, or ones that nobody sees{_of_bytes(key)}: {_PLAIN}"
    if text[0] == '"' and text[-1] == '"':
        return f"the key is a JSON text in quotes: use a string serialiser for keys, as JSON is for values; {_PLAIN}"
    if text[0] in _QUOTES and text[-1] == text[0]:
        return f"the key is in quotes: {_PLAIN}"
    if text[0] in "{[":
        advice = "for Kafka Connect set key.converter=org.apache.kafka.connect.storage.StringConverter"
        return f"the key is a JSON document: {advice}; {_PLAIN}"
    if _TEMPLATE.fullmatch(text):
        return f"the key is {text!r}, a variable that nobody filled in: {_PLAIN}"
    if _PRINTED.fullmatch(text):
        return f"the key is {text!r}, an object as it is printed: {_PLAIN}"
    if text != text.strip():
        return f"the key begins or ends with a space, so that it would name another customer: {_PLAIN}"
    return None


def _of_bytes(key: bytes) -> str:
    if len(key) > _AVRO_HEADER and key[0] == 0 and (len(key) != _LONG or _is_framed(key)):
        return " (framed by a schema registry's serialiser? Use a string serialiser for keys)"
    if len(key) in (_INT, _LONG):
        number = int.from_bytes(key, "big", signed=True)
        return f" (a number in {len(key)} bytes, {number}? Use a string serialiser for keys)"
    return ""


def _is_framed(key: bytes) -> bool:
    """Whether a header is followed by a text of Avro, behind twice its length, or of JSON. No schema has id 0."""
    content = key[_AVRO_HEADER:]
    text = content[1:].decode(errors="ignore")
    is_text = text.isprintable() and text.encode() == content[1:]
    return any(key[1:_AVRO_HEADER]) and is_text and (content[0] == 2 * (len(content) - 1) or content[:1] in b'"{[')
