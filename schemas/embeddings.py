"""Embeddings as others read them: JSON on the compacted ``embeddings.*`` topics, the newest of each key."""

from __future__ import annotations

import msgspec


class CustomerEmbedding(msgspec.Struct, frozen=True, kw_only=True):
    """Where a customer stands among the others. An erasure replaces it by a null.

    Sent when it has moved; a repeated record says the same again. Vectors of two models cannot be compared.
    """

    customer_id: str
    """The customer."""
    as_of_ms: int
    """Event time for which it holds."""
    model_version: str
    """Which model made it."""
    question_id: str
    """Of the snapshot: what predictions about it carry, too."""
    embedding: list[float]
    """Scaled to length √H, so the mean square of its numbers is 1; compare two by their cosine."""
