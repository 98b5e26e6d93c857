"""What the hashes in snapshots and states stand for, read from ``words``."""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.words import Word, hash_of
from streams.kafka.reader import TopicReader
from streams.serving.catalog import UNREADABLE

_decode: Final = msgspec.json.Decoder(Word).decode


def read_names(reader: TopicReader, prefix: str) -> dict[bytes, str]:
    """Hash -> word, as :mod:`models.readable` wants it. Of two words with one hash, the one said last.

    Raises:
        TopicMismatch: there is no such topic.
        Retry: the broker does not answer.
    """
    names: dict[bytes, str] = {}
    for message in reader.whole(prefix + "words"):
        try:
            word = _decode(message.value() or b"").word
        except UNREADABLE:
            continue  # whatever it is, it names no word
        names[hash_of(word)] = word
    return names
