"""What hashes stand for: read from lists in the place of a broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from models.readable import event_text
from schemas import codec
from schemas.words import Word, hash_of
from streams.inspect.names import read_names
from streams.kafka.reader import TopicReader

OLDER, NEWER = "item:1342", "item:65806"
"""Two words of one hash."""


class Line(NamedTuple):
    """A record as confluent-kafka would give it."""

    body: bytes | None

    def value(self) -> bytes | None:
        return self.body


class Lists:
    """A reader of the partitions of one topic."""

    def __init__(self, topic: str, *partitions: Sequence[bytes | None]) -> None:
        self.topic, self.found = topic, partitions

    def partitions(self, topic: str) -> int:
        assert topic == self.topic
        return len(self.found)

    def ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {(topic, partition): len(self.found[partition]) for topic, partition in places}

    def range(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Line]:
        assert topic == self.topic
        yield from map(Line, self.found[partition][start:stop])

    ends_of, whole, up_to = TopicReader.ends_of, TopicReader.whole, TopicReader.up_to


def names(*partitions: Sequence[bytes | None]) -> dict[bytes, str]:
    reader: Any = Lists("p.words", *partitions)
    return read_names(reader, "p.")


def said(word: str) -> bytes:
    return codec.json_encode(Word(hash=hash_of(word).hex(), word=word))


def test_names_of_all_partitions() -> None:
    found = names([said("item:1"), said("[SESSION]")], [], [said("cat:frozen fish"), said("item:1")])
    assert found == {hash_of(word): word for word in ("item:1", "[SESSION]", "cat:frozen fish")}
    assert names([], []) == {}


def test_of_two_words_with_one_hash_the_one_that_was_said_last() -> None:
    assert hash_of(OLDER) == hash_of(NEWER)
    assert names([said(OLDER), said("item:1"), said(NEWER)])[hash_of(OLDER)] == NEWER
    assert names([said(NEWER), said(OLDER)]) == {hash_of(NEWER): OLDER}


@pytest.mark.parametrize(
    "broken",
    [
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b'{"hash": "8846adc3"}',
        b'{"hash": "8846adc3", "word": 7}',
        b'{"hash": "8846adc3", "word": "\xff"}',
        b'["8846adc3", "item:42"]',
        b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_broken_record_names_nothing_and_stops_nothing(broken: bytes | None) -> None:
    found = names([said("item:1"), broken, said("item:2")], [broken])
    assert sorted(found.values()) == ["item:1", "item:2"]


def test_a_record_is_of_the_word_that_it_holds() -> None:
    wrong = b'{"version": 9, "hash": "00000000", "word": "item:42", "added": []}'
    assert names([wrong]) == {hash_of("item:42"): "item:42"}


def test_a_word_without_a_name_is_read_as_its_hash() -> None:
    told = b"".join(map(hash_of, ("[SESSION]", "evt:search", "wish", "[/SESSION]", "[SESSION]", "evt:app_open")))
    known = names([said(word) for word in ("evt:search", "evt:app_open")])
    assert event_text(told, known) == (f"[session] search #{hash_of('wish').hex()} [end of session] [session] app open")
