"""How deep JSON nests, by its bytes alone.

A parser refuses what is deeper than its stack allows. That differs between versions of Python (1,000 levels, 10,000, or
what a thread's stack holds) and with the depth of the caller. A verdict on a record must not.
"""

from __future__ import annotations

import re
from typing import Final

from schemas.limits import MAX_NESTING

# One that never ends reaches to the end of the value, so that no start is tried twice.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[]{}"))
_OPENING: Final = frozenset(b"[{")
_SPACE: Final = b" \t\n\r"


def too_deep(value: bytes) -> bool:
    """Whether a JSON object holds more than :data:`schemas.limits.MAX_NESTING` levels of objects and arrays.

    False for whatever does not begin as an object: a decoder that expects one looks no further.

    Example:
        >>> too_deep(b'{"a": ' + b"[" * 499 + b"]" * 499 + b"}"), too_deep(b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}")
        (False, True)
    """
    # Nearly every event is as short as that, or has fewer brackets, and is not looked at closely.
    if len(value) <= MAX_NESTING or value.count(b"{") + value.count(b"[") <= MAX_NESTING:
        return False
    if value.lstrip(_SPACE)[:1] != b"{":
        return False
    level = 0
    for bracket in _STRING.sub(b"", value).translate(None, _NO_BRACKET):
        level += 1 if bracket in _OPENING else -1
        if level > MAX_NESTING:
            return True
    return False
