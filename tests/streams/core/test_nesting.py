"""How deep a record nests is read from its bytes, so that the answer is the same on every Python."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.limits import MAX_NESTING, MAX_PAYLOAD_BYTES
from schemas.nesting import too_deep

_TEXT = st.text(st.sampled_from('[]{}"\\a:,'), max_size=12)
_VALUES = st.recursive(
    st.none() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=10,
)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@given(beside=st.dictionaries(_TEXT, _TEXT, max_size=3), inside=_VALUES, missing=st.integers(-3, 3))
def test_it_is_the_depth(beside: dict[str, Any], inside: Any, missing: int) -> None:
    levels = MAX_NESTING - 1 - _depth(inside) - missing  # the object around them is one more
    value = json.dumps(beside).encode()[:-1] + (b", " if beside else b"") + b'"deep": '
    value += b"[" * levels + json.dumps(inside).encode() + b"]" * levels + b"}"
    assert too_deep(value) == (missing < 0)


@pytest.mark.parametrize("value", [b"", b"7", b"[" * 2_000, b'"' + b"{" * 2_000, b" " * 2_000, b"\xff{" * 2_000])
def test_only_objects_are_looked_into(value: bytes) -> None:
    assert not too_deep(value)


def test_spaces_do_not_hide_it() -> None:
    assert too_deep(b" \t\r\n" + b'{"a":' * (MAX_NESTING + 1))


@pytest.mark.parametrize(
    "piece",
    [b'\\"', b'"', b'""', b"\\", b"{", b"}", b"{}", b"[]", b'"\\', b'"{'],
)
def test_no_value_takes_long(piece: bytes) -> None:
    value = (b'{"a":' + b"[]," * MAX_NESTING + b'"' + piece * MAX_PAYLOAD_BYTES)[:MAX_PAYLOAD_BYTES]
    started = time.process_time()
    too_deep(value)
    assert time.process_time() - started < 0.5  # a few milliseconds; what is quadratic takes a minute
