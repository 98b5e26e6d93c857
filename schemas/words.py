"""The grammar of the customer language: the words that events and sessions are written in.

Words are either *markers* in brackets, ``field:value`` pairs, or the plain words of a free text (titles, queries).
Whoever keeps or sends them writes the four bytes of :func:`hash_of`, which no vocabulary has to know: a model maps
hashes to rows of its own, and the topic ``words`` says what a hash stands for.

**Collisions.** Among n different words n²/2³³ pairs are expected to share a hash: 1 pair among 100,000 words, 116
among a million. The two words of a pair are then one word, in timelines, edges and for models, and print as the one
that was said last. Nothing else depends on hashes: state knows entities by name.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

SESSION: Final = "[SESSION]"
SESSION_END: Final = "[/SESSION]"
LATE: Final = "[LATE]"
"""In front of an event that came too late for its place."""

#: Upper bounds of the gap buckets, in hours, and their names: ``[GAP:3d]`` is "at least 2, under 3 days".
GAP_BOUNDS_H: Final = (1, 3, 6, 12, 24, 48, 72, 120, 168, 240, 336, 504, 720, 1440, 2160)
GAPS: Final = (
    "1h", "3h", "6h", "12h", "1d", "2d", "3d", "5d", "7d", "10d", "14d", "21d", "30d", "60d", "90d", "long",
)  # fmt: skip
GAP_MARKERS: Final = tuple(f"[GAP:{gap}]" for gap in GAPS)
FIRST_GAP: Final = "[GAP:none]"
HOUR_MARKERS: Final = tuple(f"[HOUR:{hour}]" for hour in range(24))
DAY_MARKERS: Final = tuple(f"[DAY:{day}]" for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun"))

PRICE_BOUNDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)
PRICE_WORDS: Final = tuple(f"price:p{band}" for band in range(len(PRICE_BOUNDS) + 1))

#: Every word that a vocabulary must hold, whatever the data.
FIXED: Final = (
    SESSION, SESSION_END, LATE, FIRST_GAP, *GAP_MARKERS, *HOUR_MARKERS, *DAY_MARKERS, *PRICE_WORDS,
)  # fmt: skip

_HOUR_MS: Final = 3_600_000
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday


#: Kind of entity -> what its words begin with.
FIELDS: Final = {
    "item": "item",
    "category": "cat",
    "campaign": "camp",
    "template": "tmpl",
    "offer": "offer",
    "channel": "chan",
    "page": "page",
}

HASH_BYTES: Final = 4
_EMPTY: Final = blake2b(digest_size=HASH_BYTES)
NOTHING: Final = bytes(HASH_BYTES)
"""The hash of no word."""
TEXT_WORDS: Final = 6
"""Words of a free text that are kept."""
SHARED_BY: Final = 5
"""What somebody typed is written down as text once so many customers did."""
_WORD_CHARACTERS: Final = 32
_REMEMBERED: Final = 200_000
"""Words of one field; some 50 MB."""
_TYPED: Final = 50_000
_NO_FIELD: Final = ""
_PAGE: Final = f"{FIELDS['page']}:"
_words: Final = re.compile(r"\w+").findall


def hash_of(word: str) -> bytes:
    """What stands for a word, little-endian; never :data:`NOTHING`.

    Example:
        >>> hash_of("item:42").hex()
        '8846adc3'
    """
    hashed = _EMPTY.copy()
    hashed.update(word.encode("utf-8", "surrogatepass"))
    digest = hashed.digest()
    return digest if digest != NOTHING else b"\1\0\0\0"


def words_of(text: str) -> list[str]:
    """The first words of a free text: in lower case, without punctuation, so that none can pass for ``field:value``.

    Example:
        >>> words_of("Dark Roast, [SESSION] item:5")
        ['dark', 'roast', 'session', 'item', '5']
    """
    found = _words(unicodedata.normalize("NFKC", text).lower())
    return [word[:_WORD_CHARACTERS] for word in found[:TEXT_WORDS]]


def attribute_of(name: str, value: str | bool | int | float) -> str:
    """What stands behind ``attr:``; numbers as they are written, texts as far as they tell people apart.

    Example:
        >>> attribute_of("age", "45-54 "), attribute_of("children", 2.0), attribute_of("member", True)
        ('age=45-54', 'children=2', 'member=true')
    """
    if isinstance(value, str):
        said = " ".join(unicodedata.normalize("NFKC", value).lower().split())[:_WORD_CHARACTERS]
    else:
        said = str(value).lower() if isinstance(value, bool) else f"{value:g}"
    return f"{name}={said}"


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What a hash stands for: JSON on ``words``, by the hash in hexadecimal digits."""

    version: int = 1
    hash: str
    word: str


class FieldWords(dict[str, bytes]):
    """Value -> hash of the word ``field:value``; what is missing is added, and put down as new."""

    __slots__ = ("_new", "prefix")

    def __init__(self, prefix: str, new: list[str]) -> None:
        super().__init__()
        self.prefix = prefix
        self._new = new

    def __missing__(self, value: str) -> bytes:
        if len(self) >= _REMEMBERED:
            self.clear()  # what comes again is new again, and is written down twice
        word = self.prefix + value
        hashed = self[value] = hash_of(word)
        self._new.append(word)
        return hashed


class Words:
    """From words to hashes; remembers which were met first since :meth:`take_new`.

    What customers type (queries, and pages whose names may hold anything) is hashed like all words, but counts as
    new only once :data:`SHARED_BY` customers have said it: what one person typed must not outlive an erasure.

    Example:
        >>> words = Words()
        >>> words.item["42"] == hash_of("item:42"), words.take_new()
        (True, ['item:42'])
    """

    def __init__(self) -> None:
        self._new: list[str] = []
        self.plain = FieldWords(_NO_FIELD, self._new)
        """Markers and whole words."""
        self.event = FieldWords("evt:", self._new)
        self.item = self._of_kind("item")
        self.category = self._of_kind("category")
        self.campaign = self._of_kind("campaign")
        self.template = self._of_kind("template")
        self.offer = self._of_kind("offer")
        self.channel = self._of_kind("channel")
        self.attribute = FieldWords("attr:", self._new)
        self.of_kind = {
            "item": self.item,
            "category": self.category,
            "campaign": self.campaign,
            "template": self.template,
            "offer": self.offer,
            "channel": self.channel,
        }
        """The words of a kind of entity, as edges name them."""
        self._typed: dict[str, tuple[bytes, set[int]]] = {}
        self._texts: dict[str, list[str]] = {}

    def __len__(self) -> int:
        """Words, typed words and texts that are remembered."""
        fields = (self.plain, self.event, self.attribute, *self.of_kind.values())
        return sum(map(len, fields)) + len(self._typed) + len(self._texts)

    def _of_kind(self, kind: str) -> FieldWords:
        return FieldWords(f"{FIELDS[kind]}:", self._new)

    def page(self, page: str, customer_id: str) -> bytes:
        """Of a page that a customer looked at."""
        return self._said(_PAGE + page, customer_id)

    def text(self, text: str, customer_id: str | None = None) -> bytes:
        """Hashes of a free text's words, see :func:`words_of`.

        Args:
            customer_id: who typed it; None for what a shop wrote.
        """
        split = self._texts.get(text)
        if split is None:
            if len(self._texts) >= _TYPED:
                self._texts.clear()
            split = self._texts[text] = words_of(text)
        if customer_id is None:
            return b"".join([self.plain[word] for word in split])
        return b"".join([self._said(word, customer_id) for word in split])

    def _said(self, word: str, customer_id: str) -> bytes:
        known = self._typed.get(word)
        if known is None:
            if len(self._typed) >= _TYPED:
                self._typed.clear()
            known = self._typed[word] = hash_of(word), set()
        hashed, customers = known
        if len(customers) < SHARED_BY:
            customers.add(crc32(customer_id.encode("utf-8", "surrogatepass")))
            if len(customers) == SHARED_BY:
                self._new.append(word)
        return hashed

    def take_new(self) -> list[str]:
        """Words that were met since the last call."""
        found = self._new.copy()
        self._new.clear()
        return found


def split(hashes: bytes) -> list[bytes]:
    """The single hashes of a sequence."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def gap_marker(gap_ms: int | None) -> str:
    """Marker for the time since the session before; ``None`` for a customer's first session."""
    return FIRST_GAP if gap_ms is None else GAP_MARKERS[bisect_right(GAP_BOUNDS_H, gap_ms // _HOUR_MS)]


def hour_marker(ts_ms: int) -> str:
    return HOUR_MARKERS[ts_ms // _HOUR_MS % 24]


def day_marker(ts_ms: int) -> str:
    return DAY_MARKERS[(ts_ms // (24 * _HOUR_MS) + _EPOCH_WEEKDAY) % 7]


def price_word(price: float) -> str:
    return PRICE_WORDS[bisect_right(PRICE_BOUNDS, price)]
