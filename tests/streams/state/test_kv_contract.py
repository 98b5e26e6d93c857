"""The store contract, over both stores: the in-memory one and RocksDB must not be told apart."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.examples import examples

from streams.state import keys
from streams.state.contract import KeyValue, WriteBatch
from streams.state.memory import MemoryStore
from streams.state.rocks import RocksStore, shared_memory

CACHE: Final = shared_memory(8 << 20)
STORES: Final[dict[str, Callable[[Path], KeyValue]]] = {
    "memory": lambda _path: MemoryStore(),
    "rocks": lambda path: RocksStore(path / "db", CACHE),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened = STORES[request.param](tmp_path)
    yield opened
    opened.close()


def batch_of(operations: dict[bytes, bytes | None]) -> WriteBatch:
    batch = WriteBatch()
    for key, value in operations.items():
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch


def fill(store: KeyValue, *names: bytes) -> None:
    store.write(batch_of({name: b"v" + name for name in names}))


def test_an_empty_store(store: KeyValue) -> None:
    assert store.get(b"a") is None
    assert store.multi_get([b"a", b"b"]) == [None, None]
    assert list(store.scan(b"", b"\xff")) == []
    assert store.size_bytes() >= 0


def test_put_get_replace_delete(store: KeyValue) -> None:
    fill(store, b"a", b"b")
    assert store.get(b"a") == b"va"
    store.write(batch_of({b"a": b"new", b"b": None, b"never was": None}))
    assert store.get(b"a") == b"new"
    assert store.get(b"b") is None
    fill(store, b"b")
    assert store.get(b"b") == b"vb"


def test_an_empty_value_is_a_value(store: KeyValue) -> None:
    store.write(batch_of({b"timer": b""}))
    assert store.get(b"timer") == b""
    assert store.multi_get([b"timer"]) == [b""]
    assert list(store.scan(b"", b"\xff")) == [(b"timer", b"")]
    store.write(batch_of({b"timer": None}))
    assert list(store.scan(b"", b"\xff")) == []


def test_keys_and_values_are_any_bytes(store: KeyValue) -> None:
    odd = [b"\x00", b"\x00\x00", b"\x00a", b"a\x00", b"\x7f", b"\x80", b"\xfe\xff", "grüße".encode(), b"x" * 1_000]
    store.write(batch_of({key: key[::-1] + b"\x00" * 50_000 for key in odd}))
    assert [key for key, _ in store.scan(b"", b"\xff")] == sorted(odd)
    assert all(store.get(key) == key[::-1] + b"\x00" * 50_000 for key in odd)


def test_multi_get_answers_in_the_order_asked(store: KeyValue) -> None:
    fill(store, b"a", b"b", b"c")
    assert store.multi_get([b"c", b"x", b"a", b"c"]) == [b"vc", None, b"va", b"vc"]
    assert store.multi_get((b"a",)) == [b"va"]
    assert store.multi_get([]) == []


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (b"b", b"d", [b"b", b"bb", b"c"]),
        (b"b\x00", b"c", [b"bb"]),
        (b"b", b"b", []),
        (b"d", b"b", []),
        (b"", b"", []),
        (b"", b"a", []),
        (b"", b"a\x00", [b"a"]),
        (b"d", b"\xff", [b"d"]),
        (b"e", b"\xff", []),
    ],
)
def test_scan_begins_at_its_start_and_ends_before_its_stop(
    store: KeyValue, start: bytes, stop: bytes, expected: list[bytes]
) -> None:
    fill(store, b"c", b"a", b"bb", b"d", b"b")
    assert list(store.scan(start, stop)) == [(key, b"v" + key) for key in expected]


def test_a_scan_that_began_does_not_see_what_is_written_meanwhile(store: KeyValue) -> None:
    fill(store, b"a", b"b", b"d")
    cursor = store.scan(b"a", b"z")
    seen = [next(cursor)]
    store.write(batch_of({b"b": b"changed", b"c": b"new", b"d": None}))
    assert [*seen, *cursor] == [(b"a", b"va"), (b"b", b"vb"), (b"d", b"vd")]
    assert list(store.scan(b"a", b"z")) == [(b"a", b"va"), (b"b", b"changed"), (b"c", b"new")]


def test_a_scan_begins_when_it_is_asked_for(store: KeyValue) -> None:
    fill(store, b"a")
    cursor = store.scan(b"a", b"z")
    fill(store, b"b")
    assert [key for key, _ in cursor] == [b"a"]


def test_two_scans_do_not_disturb_each_other(store: KeyValue) -> None:
    fill(store, b"a", b"b", b"c")
    pairs = [(one[0], other[0]) for one in store.scan(b"a", b"c") for other in store.scan(b"b", b"d")]
    assert pairs == [(b"a", b"b"), (b"a", b"c"), (b"b", b"b"), (b"b", b"c")]


def test_the_last_word_on_a_key_counts(store: KeyValue) -> None:
    fill(store, b"kept", b"gone")
    batch = WriteBatch()
    batch.put(b"kept", b"1")
    batch.delete(b"kept")
    batch.put(b"kept", b"2")
    batch.put(b"gone", b"3")
    batch.delete(b"gone")
    assert len(batch) == 2
    store.write(batch)
    assert list(store.scan(b"", b"\xff")) == [(b"kept", b"2")]


def test_an_empty_batch_changes_nothing(store: KeyValue) -> None:
    fill(store, b"a")
    store.write(WriteBatch())
    assert list(store.scan(b"", b"\xff")) == [(b"a", b"va")]


def test_a_batch_may_be_used_again(store: KeyValue) -> None:
    batch = batch_of({b"a": b"1"})
    store.write(batch)
    batch.put(b"b", b"2")
    store.write(batch)
    assert list(store.scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]


def test_size_grows_with_what_is_stored(store: KeyValue) -> None:
    before = store.size_bytes()
    store.write(batch_of({b"%04d" % at: bytes([at % 251]) * 4_096 for at in range(1_000)}))
    assert store.size_bytes() - before > 1_000_000


def test_closing_twice_is_closing_once(store: KeyValue) -> None:
    fill(store, b"a")
    store.close()
    store.close()


def test_timers_are_read_in_the_order_of_their_time(store: KeyValue) -> None:
    times = [0, 1, 255, 256, 65_536, 1_500_000_000_000, 4_102_444_800_000]
    for due_ms in reversed(times):
        store.write(batch_of({keys.timer(due_ms, "z"): b"", keys.timer(due_ms, "a"): b""}))
    store.write(batch_of({keys.META: b"m", keys.record("a"): b"r"}))
    found = [keys.parse_timer(key) for key, _ in store.scan(keys.timer_at(1), keys.timer_at(65_537))]
    assert found == [(due_ms, name) for due_ms in times[1:5] for name in ("a", "z")]


def test_rocks_keeps_what_was_written_over_a_restart(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", CACHE)
    fill(store, b"a", b"b")
    store.write(batch_of({b"a": None}))
    store.close()
    again = RocksStore(tmp_path / "db", CACHE)
    assert list(again.scan(b"", b"\xff")) == [(b"b", b"vb")]
    again.close()


KEYS = st.one_of(st.sampled_from([b"a", b"b", b"c", b"\x00", b"\xff"]), st.binary(max_size=3))
OPERATIONS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=5)), max_size=12)


class Stores(RuleBasedStateMachine):
    """Both stores side by side with a dict that cannot be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.files = ExitStack()
        self.expected: dict[bytes, bytes] = {}
        self.path = Path(self.files.enter_context(tempfile.TemporaryDirectory()))
        self.stores: dict[str, KeyValue] = {}

    @initialize()
    def open(self) -> None:
        self.stores = {name: make(self.path) for name, make in STORES.items()}

    @rule(operations=OPERATIONS)
    def write(self, operations: list[tuple[bytes, bytes | None]]) -> None:
        for store in self.stores.values():
            batch = WriteBatch()
            for key, value in operations:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            store.write(batch)
        for key, value in operations:
            if value is None:
                self.expected.pop(key, None)
            else:
                self.expected[key] = value

    @rule(wanted=st.lists(KEYS, max_size=6))
    def read(self, wanted: list[bytes]) -> None:
        expected = [self.expected.get(key) for key in wanted]
        for name, store in self.stores.items():
            assert store.multi_get(wanted) == expected, name
            assert [store.get(key) for key in wanted] == expected, name

    @rule(start=KEYS, stop=KEYS)
    def scan(self, start: bytes, stop: bytes) -> None:
        expected = sorted((key, value) for key, value in self.expected.items() if start <= key < stop)
        for name, store in self.stores.items():
            assert list(store.scan(start, stop)) == expected, name

    @rule()
    def reopen(self) -> None:
        self.stores["rocks"].close()
        self.stores["rocks"] = STORES["rocks"](self.path)

    @invariant()
    def hold_the_same(self) -> None:
        for name, store in self.stores.items():
            assert list(store.scan(b"", b"\xff" * 8)) == sorted(self.expected.items()), name

    def teardown(self) -> None:
        for store in self.stores.values():
            store.close()
        self.files.close()


Stores.TestCase.settings = settings(max_examples=examples(25), stateful_step_count=20, deadline=None)
TestStores: Any = Stores.TestCase
