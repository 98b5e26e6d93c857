"""What words mean to a model: of an entity its id and what the catalog says of it, of a word nobody knows its hash.

The *tower* of entities is a sum of rows of one table, which the encoder learns like any other words: ::

    id      its own row, or where it has none the row of [UNK] and the one of its bucket
    text    of an entity in the catalog: rows of its category, title and attributes, together as long as one
    vector  the id; of an entity with a text the mean of both

So an item of this minute is where items of its kind are, and two that nobody knows are not the same one. A
:class:`WordRows` says which rows these are, for one vocabulary and one state of the catalog. It holds no weights:
training sums rows as it goes, serving sums each word's once a catalog (:meth:`models.encoder.InputLayer.freeze`).

Popularity is no part of it, see docs/design.md.

Source of the idea of a few shared rows for all that is rare: Weinberger et al., "Feature hashing for large scale
multitask learning" (2009); of summing an id and what is known of it: Vasile et al., "Meta-Prod2Vec" (2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.tokenizer import PAD_ID, SPECIALS, UNK_ID, Vocabulary
from models.wide import Ints
from schemas.catalog import CatalogEntry
from schemas.words import FIELDS, FIXED, hash_of, words_of

BUCKETS: Final = 1_024
"""Rows, behind those of the vocabulary, that words without one share."""
MOST_TEXT: Final = 8
"""Rows that tell of an entity beside its id."""
_GRAMMAR: Final = len(SPECIALS) + len(FIXED)
"""Rows of words that are always known."""

Hashes = npt.NDArray[np.uint32]


class _Said(NamedTuple):
    """What an entry says, in numbers."""

    entry: CatalogEntry
    hashed: int
    text: tuple[int, ...]


class WordRows:
    """Places of words, and the rows of the table that each stands for.

    Places run: those of the vocabulary, the buckets, entities that only the catalog knows. Equal vocabularies and
    catalogs give equal places, whatever came before.

    Args:
        catalog: ``kind:id`` -> entry.
        before: an older one of the same vocabulary, so that only what changed since is read.

    Attributes:
        own: (R,) first row of each place.
        bucket: (R,) of each place the row of its bucket, :data:`models.tokenizer.PAD_ID` where it needs none.
        counts: (R,) further rows of each place.
        text: those, of one place after the other.

    Example:
        >>> known = WordRows(Vocabulary(build({"cat:tea": 2})), {"item:1": item})  # doctest: +SKIP
        >>> known.rows(hash_of("cat:tea") + hash_of("item:1") + hash_of("item:2"))  # doctest: +SKIP
        array([64, 1089, 571])
    """

    def __init__(
        self, vocabulary: Vocabulary, catalog: Mapping[str, CatalogEntry] | None = None, before: WordRows | None = None
    ) -> None:
        self.vocabulary = vocabulary
        size = len(vocabulary)
        old = before._said if before is not None else {}
        self._said: dict[str, _Said] = {}
        for name, entry in (catalog or {}).items():
            known = old.get(name)
            self._said[name] = known if known is not None and known.entry is entry else self._say(entry)
        # Sorted, and of two entities with one hash the first: so no order of arrival is seen.
        said = [self._said[name] for name in sorted(self._said)]
        hashed = np.fromiter((one.hashed for one in said), dtype=np.uint32, count=len(said))
        kept = np.sort(np.unique(hashed, return_index=True)[1])
        hashed, said = hashed[kept], [said[at] for at in kept.tolist()]
        known_place, is_known = vocabulary.find(hashed)
        place = known_place.astype(np.int64)
        fresh = hashed[~is_known]
        place[~is_known] = size + BUCKETS + np.arange(len(fresh))

        self._hashes = np.concatenate([vocabulary.hashes, fresh])
        order = np.argsort(self._hashes)
        self._hashes = self._hashes[order]
        self._place = np.concatenate([vocabulary.row_of, place[~is_known]])[order].astype(np.int64)

        places = size + BUCKETS + len(fresh)
        self.own: Ints = np.full(places, UNK_ID, dtype=np.int64)
        self.own[:size] = np.arange(size)
        self.bucket: Ints = np.full(places, PAD_ID, dtype=np.int64)
        self.bucket[vocabulary.row_of] = size + vocabulary.hashes % BUCKETS
        self.bucket[:_GRAMMAR] = PAD_ID
        self.bucket[size : size + BUCKETS] = size + np.arange(BUCKETS)
        self.bucket[size + BUCKETS :] = size + fresh % BUCKETS
        self.counts: Ints = np.zeros(places, dtype=np.int64)
        self.counts[place] = [len(one.text) for one in said]
        self.text: Ints = np.fromiter(
            chain.from_iterable(said[at].text for at in np.argsort(place).tolist()), dtype=np.int64
        )
        self.begin: Ints = np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        """Number of places."""
        return len(self.own)

    def rows(self, hashes: bytes) -> Ints:
        """Places of hashed words, (N,): as :meth:`models.tokenizer.Vocabulary.rows`, a bucket where there is no row."""
        wanted = np.frombuffer(hashes, dtype="<u4")
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        buckets = len(self.vocabulary) + wanted % BUCKETS
        found: Ints = np.where(self._hashes[at] == wanted, self._place[at], buckets).astype(np.int64)
        return found

    def known(self, places: Ints) -> npt.NDArray[np.bool_]:
        """Which of them have a row of their own."""
        return places < len(self.vocabulary)

    def _say(self, entry: CatalogEntry) -> _Said:
        said = [f"cat:{entry.category}"] if entry.category else []
        attributes = [value for _, value in sorted((entry.attributes or {}).items()) if isinstance(value, str)]
        for text in (entry.title or "", *attributes):
            said += words_of(text)
            if len(said) >= 2 * MOST_TEXT:
                break
        own = word_of(entry.kind, entry.id)
        return _Said(
            entry,
            int.from_bytes(hash_of(own), "little"),
            tuple(map(self._row, list(dict.fromkeys(said))[:MOST_TEXT])),
        )

    def _row(self, word: str) -> int:
        row = self.vocabulary.row(word)
        if row is not None:
            return row
        return len(self.vocabulary) + int.from_bytes(hash_of(word), "little") % BUCKETS


def word_of(kind: str, entity_id: str) -> str:
    """The word of an entity, as timelines and edges have it.

    Raises:
        KeyError: a kind that has no words.

    Example:
        >>> word_of("campaign", "7")
        'camp:7'
    """
    return f"{FIELDS[kind]}:{entity_id}"
