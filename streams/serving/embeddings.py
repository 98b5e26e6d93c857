"""Which customers' embeddings are published: those that have moved since they were last sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from models.wide import Floats
from schemas import cloudevents, ids
from schemas.codec import json_encode
from schemas.embeddings import CustomerEmbedding
from schemas.records import OutputRecord
from schemas.snapshot import LIVE_KINDS, Snapshot

CUSTOMER_EMBEDDINGS: Final = "embeddings.customer"
_ENTRY_BYTES: Final = 250
"""Of one remembered customer beside the numbers."""
_BUDGET_BYTES: Final = 64 << 20


class EmbeddingFeed:
    """Remembers what was sent last, within bounds.

    The memory is a hint and no state: a customer who is not in it is sent, so a restart costs records and nothing else.

    Args:
        margin: cosine distance from what was sent last above which an embedding is sent again.
        budget_bytes: bound of the memory; who was sent longest ago is forgotten first.
    """

    def __init__(self, margin: float, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._margin = margin
        self._budget_bytes = budget_bytes
        self._sent: dict[str, Floats] = {}

    def __call__(self, snapshots: Sequence[Snapshot], embeddings: Floats, model_version: str) -> list[OutputRecord]:
        """Records of the live snapshots among these, in their order; embeddings (B, H) are theirs."""
        found: list[OutputRecord] = []
        for snapshot, vector in zip(snapshots, embeddings, strict=True):
            if snapshot.kind in LIVE_KINDS and self._moved(snapshot.customer_id, vector):
                found.append(_record(snapshot, vector, model_version))
        return found

    def __len__(self) -> int:
        """Customers that are remembered."""
        return len(self._sent)

    def forget(self, customer_id: str) -> OutputRecord:
        """The customer was erased: what takes the embedding out of the topic."""
        self._sent.pop(customer_id, None)
        return OutputRecord(CUSTOMER_EMBEDDINGS, customer_id.encode(), None)

    def clear(self) -> None:
        """Another worker may have sent something since: everybody is sent again."""
        self._sent.clear()

    def _moved(self, customer_id: str, vector: Floats) -> bool:
        sent = self._sent.pop(customer_id, None)
        if sent is not None and 1 - float(sent @ vector) / len(vector) <= self._margin:
            self._sent[customer_id] = sent
            return False
        self._sent[customer_id] = vector.copy()
        while len(self._sent) * (_ENTRY_BYTES + vector.nbytes) > self._budget_bytes:
            del self._sent[next(iter(self._sent))]
        return True


def _record(snapshot: Snapshot, vector: Floats, model_version: str) -> OutputRecord:
    embedding = CustomerEmbedding(
        customer_id=snapshot.customer_id,
        as_of_ms=snapshot.as_of_ms,
        model_version=model_version,
        question_id=snapshot.question_id,
        embedding=np.round(vector.astype(np.float64), 4).tolist(),
    )
    name = ids.prediction_id("embedding", snapshot.question_id, model_version)
    headers = cloudevents.headers(name, CUSTOMER_EMBEDDINGS, snapshot.as_of_ms)
    return OutputRecord(CUSTOMER_EMBEDDINGS, snapshot.customer_id.encode(), json_encode(embedding), headers)
