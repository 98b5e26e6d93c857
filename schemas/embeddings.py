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


class EntityEmbedding(msgspec.Struct, frozen=True, kw_only=True):
    """Where an item, campaign or other entity stands among the others of its kind; the key is ``kind:id``.

    A null says that the catalog no longer names it. Sent when it has moved or is called otherwise, and anew when
    another worker takes over; a repeated record says the same again. Vectors of two models cannot be compared, nor can
    those of customers and entities.
    """

    kind: str
    """``item``, ``campaign``, ``template``, ``offer``, ``channel``, ``category`` or ``page``."""
    id: str
    """Its id."""
    title: str | None
    """As the catalog has it."""
    as_of_ms: int | None
    """Time of the catalog's record that it is made from; null where there is none, as of categories and pages."""
    model_version: str
    """Which model made it."""
    embedding: list[float]
    """Scaled to length √H, so the mean square of its numbers is 1; compare two by their cosine."""
