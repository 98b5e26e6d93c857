"""Words and their hashes: what a customer typed stays with its hash until others have said it too."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import snapshot, words
from schemas.catalog import KINDS
from schemas.graph import EDGE_TYPES
from schemas.snapshot import HOUR_MS, age_code, age_hours
from schemas.words import (
    FIELDS,
    FIXED,
    GAP_MARKERS,
    HASH_BYTES,
    NOTHING,
    SHARED_BY,
    TEXT_WORDS,
    Words,
    gap_marker,
    hash_of,
    words_of,
)

SHARERS = [f"c{number}" for number in range(SHARED_BY)]


def column(*said: str) -> bytes:
    return b"".join(map(hash_of, said))


@pytest.mark.parametrize("module", [words, snapshot])
def test_the_examples_in_docstrings_run(module) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_hashes_are_the_same_for_ever() -> None:
    """They lie in logs, states and models."""
    assert [hash_of(word).hex() for word in ("", "[SESSION]", "item:1", "café")] == [
        "1271cf25", "b82c85ab", "6ac30ad3", "2d03c5d6",
    ]  # fmt: skip


@given(st.text())
def test_every_word_has_a_hash(word: str) -> None:
    assert len(hash_of(word)) == HASH_BYTES
    assert hash_of(word) != NOTHING


def test_a_word_that_is_no_valid_text_has_a_hash_too() -> None:
    assert len(hash_of("item:\ud800")) == HASH_BYTES
    assert len(Words().page("\ud800", "\udfff")) == HASH_BYTES


def test_no_word_has_the_hash_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def __init__(self, *_: object, **__: object) -> None: ...

        def digest(self) -> bytes:
            return bytes(HASH_BYTES)

    monkeypatch.setattr(words, "blake2b", Zeros)
    assert hash_of("any") not in (NOTHING, b"")
    assert len(hash_of("any")) == HASH_BYTES


def test_fixed_words_have_hashes_of_their_own() -> None:
    assert len(FIXED) == len(set(FIXED)) == len({hash_of(word) for word in FIXED})


@given(st.text(max_size=400))
def test_words_of_a_text_cannot_pass_for_others(text: str) -> None:
    found = words_of(text)
    assert len(found) <= TEXT_WORDS
    assert all(0 < len(word) <= 32 for word in found)
    assert not set("[]: \n") & set("".join(found))
    assert not set(found) & set(FIXED)
    assert words_of(" ".join(found)) == found, "a word that was split stays whole"


def test_texts_that_a_person_takes_for_the_same_are_the_same() -> None:
    assert words_of("ＣＡＦＥ\u0301 — 250\u00a0g") == words_of("café 250 g") == ["café", "250", "g"]
    assert words_of("...") == words_of("") == []
    assert words_of("x" * 100) == ["x" * 32]


def test_what_a_shop_calls_its_things_is_new_at_once_and_once() -> None:
    found = Words()
    assert found.item["42"] == found.item["42"] == hash_of("item:42")
    assert found.of_kind["category"]["tea"] == found.category["tea"] == hash_of("cat:tea")
    assert found.plain["[SESSION]"] == hash_of("[SESSION]")
    assert found.text("Dark roast") == found.text("Dark roast") == column("dark", "roast")
    assert found.take_new() == ["item:42", "cat:tea", "[SESSION]", "dark", "roast"]
    assert found.take_new() == []
    assert found.item["42"] == hash_of("item:42")
    assert found.text("dark") == hash_of("dark")
    assert found.take_new() == []


def test_every_kind_of_entity_has_a_field_of_its_own() -> None:
    found = Words()
    hashed = {kind: field["1"] for kind, field in found.of_kind.items()}
    assert len(set(hashed.values())) == len(hashed)
    assert sorted(found.take_new()) == ["camp:1", "cat:1", "chan:1", "item:1", "offer:1", "tmpl:1"]


def test_what_the_catalog_and_edges_name_has_a_field() -> None:
    assert set(KINDS) <= FIELDS.keys()
    assert {edge_type.partition(">")[2] for edge_type in EDGE_TYPES} == FIELDS.keys()
    assert len(set(FIELDS.values())) == len(FIELDS)
    assert all(f"{FIELDS[kind]}:" == field.prefix for kind, field in Words().of_kind.items())


def test_what_is_taken_is_not_changed_by_what_comes_after() -> None:
    found = Words()
    assert found.item["1"]
    taken = found.take_new()
    assert found.item["2"]
    assert taken == ["item:1"]
    assert found.take_new() == ["item:2"]


def test_what_was_typed_is_hashed_at_once_and_told_when_enough_have_said_it() -> None:
    found = Words()
    for sharer in SHARERS[:-1]:
        assert found.text("Joe Bloggs", sharer) == column("joe", "bloggs")
        assert found.page("/u/joe", sharer) == hash_of("page:/u/joe")
        assert found.take_new() == []
    assert found.text("who is joe?", SHARERS[-1]) == column("who", "is", "joe")
    assert found.take_new() == ["joe"]
    assert found.page("/u/joe", SHARERS[-1]) == hash_of("page:/u/joe")
    assert found.take_new() == ["page:/u/joe"]
    for sharer in [*SHARERS, "another"]:
        found.page("/u/joe", sharer)
        found.text("joe", sharer)
    assert found.take_new() == [], "once"


def test_who_says_it_again_and_again_is_one() -> None:
    found = Words()
    for _ in range(3 * SHARED_BY):
        found.text("secret secret", "c1")
        found.page("/secret", "c1")
    for sharer in SHARERS[: SHARED_BY - 2]:
        found.text("secret", sharer + "x")
    assert found.take_new() == []
    found.text("secret", "the last")
    assert found.take_new() == ["secret"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.lists(st.sampled_from(["dark", "tea", "joe"]), max_size=3)),
        max_size=40,
    ),
    st.integers(1, 5),
)
def test_a_private_word_is_never_told_early_nor_twice(said: list[tuple[str, list[str]]], every: int) -> None:
    found = Words()
    sharers: dict[str, set[str]] = {}
    told: list[str] = []
    for number, (customer, query) in enumerate(said):
        assert found.text(" ".join(query), customer) == column(*query)
        for word in query:
            sharers.setdefault(word, set()).add(customer)
        if number % every == 0:
            told += found.take_new()
            assert all(len(sharers[word]) >= SHARED_BY for word in told)
    told += found.take_new()
    assert sorted(told) == sorted(word for word, who in sharers.items() if len(who) >= SHARED_BY)


def test_what_a_shop_wrote_is_told_whoever_typed_it_before() -> None:
    found = Words()
    found.text("espresso", "c1")
    assert found.take_new() == []
    assert found.text("Espresso") == hash_of("espresso")
    assert found.take_new() == ["espresso"]


def test_what_was_typed_once_is_not_kept_with_who_typed_it() -> None:
    """An erasure cannot reach in here, so there must be nothing that names a customer."""
    found = Words()
    found.text("joe", "customer-17")
    found.page("/joe", "customer-17")
    assert "customer-17" not in repr(vars(found))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_REMEMBERED", 20)
    monkeypatch.setattr(words, "_TYPED", 20)
    found = Words()
    for number in range(100):
        assert found.item[str(number)] == hash_of(f"item:{number}")
        assert found.text(f"title{number}") == hash_of(f"title{number}")
        assert found.page(f"/{number}", "c1") == hash_of(f"page:/{number}")
        assert found.text(f"query{number}", "c1") == hash_of(f"query{number}")
        assert max(len(found.item), len(found.plain), len(found._typed)) <= 20
        assert len(found._texts) <= 20
    told = found.take_new()
    assert sorted(told) == sorted([f"item:{n}" for n in range(100)] + [f"title{n}" for n in range(100)])
    assert found.item["0"] == hash_of("item:0")
    assert found.take_new() == ["item:0"], "what was forgotten is told again, with the same hash"


@pytest.mark.parametrize(
    ("gap_ms", "marker"),
    [
        (None, "[GAP:none]"), (0, "[GAP:1h]"), (HOUR_MS - 1, "[GAP:1h]"), (HOUR_MS, "[GAP:3h]"),
        (48 * HOUR_MS, "[GAP:3d]"), (2160 * HOUR_MS, "[GAP:long]"), (10**15, "[GAP:long]"),
    ],
)  # fmt: skip
def test_gaps(gap_ms: int | None, marker: str) -> None:
    assert gap_marker(gap_ms) == marker
    assert marker in (*GAP_MARKERS, "[GAP:none]")


@given(st.integers(-(10**12), 10**15), st.integers(0, 10**12))
def test_ages_are_in_order_and_near(age_ms: int, more_ms: int) -> None:
    code = age_code(age_ms)
    assert 0 <= code <= age_code(age_ms + more_ms) <= 255
    assert age_hours(code) * HOUR_MS <= max(0, age_ms) + 1
    if 0 <= code < 255 and age_ms > 0:
        assert age_ms < age_hours(code + 1) * HOUR_MS + 1
        assert age_hours(code + 1) - age_hours(code) <= 0.05 * (age_hours(code) + 1)


def test_every_age_code_is_the_code_of_its_least_age() -> None:
    assert [age_code(round(age_hours(code) * HOUR_MS)) for code in range(256)] == list(range(256))
