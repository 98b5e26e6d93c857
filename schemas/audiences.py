"""Audiences as campaign systems read them: JSON on ``audiences``, a record a member, keyed by customer id."""

from __future__ import annotations

from typing import Final

import msgspec

from schemas import cloudevents, ids
from schemas.codec import json_encode
from schemas.records import OutputRecord

AUDIENCES: Final = "audiences"


class AudienceMember(msgspec.Struct, frozen=True, kw_only=True):
    """One customer of a list of those who are most like some others.

    The list is whole when ``size`` members with its ``audience_id`` have been read. It replaces every list of the same
    ``name`` with an earlier ``made_ms``: whoever is not in it is a member no more. It is no permission to send: that is
    what the decision in force says.
    """

    audience_id: str
    """Derived from name, seed, size, model and what had been read: a repeated run has the same."""
    name: str
    """What the list is called."""
    customer_id: str
    """The member."""
    rank: int
    """1 is the most alike."""
    score: float
    """Mean cosine with the nearest customers of the seed, from -1 to 1; to be compared within one list only."""
    size: int
    """Members of the list."""
    like: str
    """What the seed is: ``file:`` and the file's name, or ``campaign:`` and its id."""
    seed: int
    """Customers of the seed that have an embedding."""
    model_version: str
    """Which model made the embeddings."""
    as_of_ms: int
    """Event time of the member's embedding."""
    made_ms: int
    """When the list was made, wall clock."""


def member_record(member: AudienceMember) -> OutputRecord:
    """A member on its way to the topic."""
    name = ids.member_id(member.audience_id, member.customer_id)
    headers = cloudevents.headers(name, AUDIENCES, member.as_of_ms)
    return OutputRecord(AUDIENCES, member.customer_id.encode(), json_encode(member), headers)
