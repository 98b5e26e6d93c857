"""Embeddings of ``embeddings.customer`` in memory: the newest of everybody, those of each model apart."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Message

from models.wide import Floats
from schemas.embeddings import CustomerEmbedding

_FIRST: Final = 1_024
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)

_decode: Final = msgspec.json.Decoder(CustomerEmbedding).decode


class Vectors(NamedTuple):
    """Customers with vectors that can be compared, row by row."""

    customers: list[str]
    vectors: Floats
    """(N, H)"""
    as_of_ms: list[int]


class _OfModel:
    """Vectors of one model in one array; whoever leaves makes room for the last row."""

    def __init__(self, width: int) -> None:
        self.customers: list[str] = []
        self.as_of_ms: list[int] = []
        self.vectors: Floats = np.empty((_FIRST, width), dtype=np.float32)
        self._row: dict[str, int] = {}

    def put(self, customer_id: str, vector: Floats, as_of_ms: int) -> None:
        row = self._row.get(customer_id)
        if row is None:
            row = self._row[customer_id] = len(self.customers)
            self.customers.append(customer_id)
            self.as_of_ms.append(as_of_ms)
            if row == len(self.vectors):
                self.vectors = np.concatenate([self.vectors, np.empty_like(self.vectors)])
        self.vectors[row], self.as_of_ms[row] = vector, as_of_ms

    def drop(self, customer_id: str) -> None:
        row = self._row.pop(customer_id)
        last, last_ms = self.customers.pop(), self.as_of_ms.pop()
        if last != customer_id:
            self.customers[row], self.as_of_ms[row], self._row[last] = last, last_ms, row
            self.vectors[row] = self.vectors[len(self.customers)]


class KnownEmbeddings:
    """What the topic says, record by record; a record of a customer replaces the one before, a null takes it away.

    Attributes:
        erased: customers whose newest record is a null.
        unreadable: records that are no embeddings, or have another width than the first one of their model.
    """

    def __init__(self) -> None:
        self.erased: set[str] = set()
        self.unreadable = 0
        self._models: dict[str, _OfModel] = {}
        self._model_of: dict[str, str] = {}
        self._newest: tuple[int, str] = -1, ""

    def take(self, message: Message) -> None:
        """Take a record in, each partition's in their order."""
        self.read(message.key(), message.value(), message.timestamp()[1])

    def read(self, key: bytes | None, value: bytes | None, sent_ms: int) -> None:
        """The same of a record's parts; ``sent_ms`` is its Kafka timestamp."""
        try:
            customer_id = (key or b"").decode()
            said = None if value is None else _decode(value)
        except _UNREADABLE:
            self.unreadable += 1
            return
        if said is None:
            self._forget(customer_id)
            self.erased.add(customer_id)
            return
        vector = np.array(said.embedding, dtype=np.float32)
        model = self._models.get(said.model_version)
        width = len(vector) if model is None else model.vectors.shape[1]
        if said.customer_id != customer_id or not len(vector) or len(vector) != width or not np.isfinite(vector).all():
            self.unreadable += 1
            return
        if self._model_of.get(customer_id) != said.model_version:
            self._forget(customer_id)
        self._models.setdefault(said.model_version, _OfModel(width)).put(customer_id, vector, said.as_of_ms)
        self._model_of[customer_id] = said.model_version
        self._newest = max(self._newest, (sent_ms, said.model_version))
        self.erased.discard(customer_id)

    def __len__(self) -> int:
        return len(self._model_of)

    def __contains__(self, customer_id: str) -> bool:
        return customer_id in self._model_of

    @property
    def newest_model(self) -> str:
        """The model of the record that was sent last; empty where there is none."""
        return self._newest[1]

    @property
    def models(self) -> dict[str, int]:
        """Model version -> customers whose embedding is of it."""
        return {version: len(model.customers) for version, model in self._models.items() if model.customers}

    def of_model(self, version: str) -> Vectors:
        """Everybody whose embedding is of a model, by id.

        Raises:
            KeyError: nobody's is.
        """
        model = self._models[version]
        order = sorted(range(len(model.customers)), key=model.customers.__getitem__)
        customers = [model.customers[row] for row in order]
        return Vectors(customers, model.vectors[order], [model.as_of_ms[row] for row in order])

    def _forget(self, customer_id: str) -> None:
        version = self._model_of.pop(customer_id, None)
        if version is not None:
            self._models[version].drop(customer_id)
