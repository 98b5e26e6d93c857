"""Which entities' embeddings are published: those that have moved since they were last sent, each by one worker.

An entity's record goes to the partition of ``embeddings.entity`` that its name hashes to, and whoever reads the
partition of ``session-snapshots`` with that number sends it. So nothing but the consumer group says who that is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from models.entities import word_of
from models.wide import Floats
from schemas import cloudevents, ids
from schemas.catalog import KINDS, CatalogEntry
from schemas.codec import json_encode
from schemas.embeddings import EntityEmbedding
from schemas.records import OutputRecord
from schemas.words import FIELDS
from streams.kafka.partitioning import partition_for

ENTITY_EMBEDDINGS: Final = "embeddings.entity"
MOST_REMEMBERED: Final = 200_000
"""Entities, some 100 MB."""
_CHUNK: Final = 500
_NOT_IN_CATALOG: Final = tuple(kind for kind in FIELDS if kind not in KINDS)
_KIND_OF: Final = {field: kind for kind, field in FIELDS.items()}


class Tower(Protocol):
    """What :class:`models.inference.Predictor` does for this."""

    version: str

    def know(self, catalog: Mapping[str, CatalogEntry], version: object = None) -> None: ...

    def entities(self, words: Sequence[str]) -> Floats: ...

    @property
    def named(self) -> Collection[str]:
        """Words with a row of their own."""


Catalog = Callable[[], tuple[Mapping[str, CatalogEntry], int]]
"""Entries by ``kind:id`` as they are now, and a version that changes with them."""


class _Sent(NamedTuple):
    title: str | None
    vector: npt.NDArray[np.float16] | None
    """None of an entity that was taken out."""


class EntityFeed:
    """Remembers what was sent last, and what is to be looked at.

    Published are the catalog's entries, the categories that they name, and the categories and pages that the model
    knows. The memory is a hint and no state: what is not in it is sent. :meth:`tell` may be called by any thread, the
    others by one at a time.

    Args:
        margin: cosine distance from what was sent last above which an embedding is sent again.
        partitions: of every topic.
    """

    def __init__(self, tower: Tower, catalog: Catalog, margin: float, partitions: int) -> None:
        self._catalog = catalog
        self._margin = margin
        self._partitions = partitions
        self._changed: deque[Mapping[str, int]] = deque()
        self._changed_ms: dict[str, int] = {}
        """Every name that the catalog has or had a record of."""
        self._set_tower(tower)
        self._categories: set[str] = set()
        self._held: set[int] = set()
        self._waiting: dict[str, None] = {}
        self._sent: dict[str, _Sent] = {}

    def tell(self, changed: Mapping[str, int]) -> None:
        """The catalog has new records of these names; of each the time in ms."""
        self._changed.append(changed)

    def renew(self, tower: Tower) -> None:
        """Another model serves: its vectors are of another space, so all are sent again."""
        before = self._learned
        self._set_tower(tower)
        self._sent.clear()
        # What the model before knew alone is taken out.
        self._look_at((*self._changed_ms, *self._learned, *self._categories, *before))

    def hold(self, partitions: set[int]) -> None:
        """These are this worker's; what it did not hold before is sent anew, as others may have sent since."""
        fresh, self._held = partitions - self._held, partitions
        self._sent = {name: sent for name, sent in self._sent.items() if self._partition(name) in partitions - fresh}
        self._waiting = {name: None for name in self._waiting if self._partition(name) in partitions}
        self._look_at(
            name for name in (*self._changed_ms, *self._learned, *self._categories) if self._partition(name) in fresh
        )

    @property
    def due(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._changed or self._waiting)

    def __call__(self) -> list[OutputRecord]:
        """Records of the next few hundred entities that are to be looked at."""
        self._take_in()
        names = list(self._waiting)[:_CHUNK]
        for name in names:
            del self._waiting[name]
        entries, version = self._catalog()
        self._tower.know(entries, version)
        there = [name for name in names if name in entries or name in self._learned or name in self._categories]
        vectors = self._tower.entities([word_of(*_split(name)) for name in there])
        records = [
            record
            for name, vector in zip(there, vectors, strict=True)
            if (record := self._sent_if_moved(name, entries.get(name), vector)) is not None
        ]
        gone = sorted(set(names) - set(there))
        return records + [record for name in gone if (record := self._taken_out(name)) is not None]

    def _take_in(self) -> None:
        """What the catalog told of since."""
        if not self._changed:
            return
        while self._changed:
            changed = self._changed.popleft()
            known = {name: at_ms for name, at_ms in changed.items() if _split(name)[0] in KINDS}
            self._changed_ms |= known
            self._look_at(known)
        entries, _ = self._catalog()
        categories = {f"category:{entry.category}" for entry in entries.values() if entry.category}
        self._look_at(categories ^ self._categories)
        self._categories = categories

    def _set_tower(self, tower: Tower) -> None:
        self._tower = tower
        self._learned = {
            f"{kind}:{value}"
            for field, colon, value in (word.partition(":") for word in tower.named)
            if colon and (kind := _KIND_OF.get(field)) in _NOT_IN_CATALOG
        }

    def _look_at(self, names: Iterable[str]) -> None:
        self._waiting.update((name, None) for name in names if self._partition(name) in self._held)

    def _sent_if_moved(self, name: str, entry: CatalogEntry | None, vector: Floats) -> OutputRecord | None:
        title = entry.title if entry is not None else None
        if self._is_known(self._sent.get(name), title, vector):
            return None
        self._remember(name, _Sent(title, vector.astype(np.float16)))
        kind, entity_id = _split(name)
        at_ms = self._changed_ms.get(name, -1) if entry is not None else -1
        embedding = EntityEmbedding(
            kind=kind,
            id=entity_id,
            title=title,
            as_of_ms=at_ms if at_ms >= 0 else None,
            model_version=self._tower.version,
            embedding=np.round(vector.astype(np.float64), 4).tolist(),
        )
        said = ids.prediction_id("entity-embedding", f"{name}@{embedding.as_of_ms}", self._tower.version)
        headers = cloudevents.headers(said, ENTITY_EMBEDDINGS, embedding.as_of_ms)
        return OutputRecord(ENTITY_EMBEDDINGS, name.encode(), json_encode(embedding), headers)

    def _is_known(self, sent: _Sent | None, title: str | None, vector: Floats) -> bool:
        if sent is None or sent.vector is None or sent.title != title:
            return False
        return 1 - float(sent.vector.astype(np.float32) @ vector) / len(vector) <= self._margin

    def _taken_out(self, name: str) -> OutputRecord | None:
        sent = self._sent.get(name)
        if sent is not None and sent.vector is None:
            return None
        self._remember(name, _Sent(None, None))
        return OutputRecord(ENTITY_EMBEDDINGS, name.encode(), None)

    def _remember(self, name: str, sent: _Sent) -> None:
        # What there is no room for is sent again when its entry changes; forgetting older ones would save nothing.
        if name in self._sent or len(self._sent) < MOST_REMEMBERED:
            self._sent[name] = sent

    def _partition(self, name: str) -> int:
        return partition_for(name.encode(), self._partitions)


def _split(name: str) -> tuple[str, str]:
    kind, _, entity_id = name.partition(":")
    return kind, entity_id
