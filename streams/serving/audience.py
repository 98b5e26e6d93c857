"""Audiences: the customers who are most like those of a seed. Pure; :mod:`streams.commands.audience` is its shell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from models.neighbours import SeedIndex, Whitened
from schemas import ids
from schemas.audiences import AudienceMember
from schemas.errors import ConfigError
from streams.serving.known_embeddings import KnownEmbeddings


class Seed(NamedTuple):
    """Customers whom others shall be like."""

    customers: Sequence[str]
    """Each once, in the order in which they were given."""
    like: str
    """``file:NAME`` or ``campaign:ID``."""


class Ranked(NamedTuple):
    """One member of an audience."""

    customer_id: str
    score: float
    rank: int
    as_of_ms: int


class Audience(NamedTuple):
    """Members, most alike first, and what they were chosen by."""

    members: list[Ranked]
    model_version: str
    seed: list[str]
    """Those of the seed who have an embedding of the model, by id."""
    erased: list[str]
    """Those of the seed who were erased."""
    unknown: list[str]
    """Those of the seed of whom there is no embedding."""
    of_other_models: list[str]
    """Those of the seed whose embedding is another model's."""


def find_audience(known: KnownEmbeddings, seed: Seed, size: int, model_version: str | None = None) -> Audience:
    """The ``size`` customers outside the seed who are most like it; of equal ones, those with the lesser ids.

    Args:
        model_version: whose embeddings to compare; where None, those of the model that was at work last.

    Raises:
        ConfigError: nobody of the seed can be compared, or there are not so many others.
    """
    version = _version(known, model_version)
    there = known.of_model(version)
    wanted = set(seed.customers)
    is_seed = np.array([name in wanted for name in there.customers], dtype=np.bool_)
    erased = [name for name in seed.customers if name in known.erased]
    unknown = [name for name in seed.customers if name not in known and name not in known.erased]
    rest = wanted.difference(there.customers, erased, unknown)
    others = [name for name in seed.customers if name in rest]
    if not is_seed.any():
        raise ConfigError(_nobody(known, seed, erased, unknown, others, version))
    candidates = int((~is_seed).sum())
    if size > candidates:
        raise ConfigError(
            f"only {candidates:,} customers outside the seed have an embedding of model {version}: give --size "
            f"{candidates} or less" + _mixed(known, version)
        )
    space = Whitened(there.vectors)
    rows = np.flatnonzero(~is_seed)
    scores = SeedIndex(space(there.vectors[is_seed])).scores(space(there.vectors[rows]))
    best = rows[np.argsort(-scores, kind="stable")[:size]]  # rows are in the order of ids
    score_of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    members = [
        Ranked(there.customers[row], round(score_of[row], 6), place + 1, there.as_of_ms[row])
        for place, row in enumerate(best.tolist())
    ]
    inside = [name for name, chosen in zip(there.customers, is_seed.tolist(), strict=True) if chosen]
    return Audience(members, version, inside, erased, unknown, others)


def member_records(
    audience: Audience, seed: Seed, name: str, read: Sequence[int], now_ms: int
) -> Iterator[AudienceMember]:
    """What is published of an audience.

    Args:
        name: what the list is called.
        read: offset up to which each partition of the topic was read.
        now_ms: wall clock.
    """
    size = len(audience.members)
    audience_id = ids.audience_id(name, seed.like, audience.seed, size, audience.model_version, read)
    for member in audience.members:
        yield AudienceMember(
            audience_id=audience_id,
            name=name,
            customer_id=member.customer_id,
            rank=member.rank,
            score=member.score,
            size=size,
            like=seed.like,
            seed=len(audience.seed),
            model_version=audience.model_version,
            as_of_ms=member.as_of_ms,
            made_ms=now_ms,
        )


def names_of(customers: Sequence[str], shown: int = 5) -> str:
    """Some customers by name, the first few of many.

    Example:
        >>> names_of(["a", "b", "c"], shown=2)
        'a, b and 1 more'
    """
    more = f" and {len(customers) - shown:,} more" if len(customers) > shown else ""
    return ", ".join(customers[:shown]) + more


def _version(known: KnownEmbeddings, wanted: str | None) -> str:
    models = known.models
    if not models:
        raise ConfigError(
            "nobody has an embedding yet: run workers with the role encode and a model, and `pulsegraph sweep` for "
            "customers of whom nothing comes"
        )
    if wanted is not None and wanted not in models:
        counts = ", ".join(f"{version} ({count:,} customers)" for version, count in sorted(models.items()))
        raise ConfigError(f"no embedding is of model {wanted!r}: there are those of {counts}")
    newest = known.newest_model
    return wanted or (newest if newest in models else max(models, key=lambda version: (models[version], version)))


def _mixed(known: KnownEmbeddings, version: str) -> str:
    others = sum(count for other, count in known.models.items() if other != version)
    if not others:
        return ""
    return (
        f"; {others:,} have one of another model, which cannot be compared with it: `pulsegraph sweep` embeds them "
        "anew, --model takes an older one"
    )


def _nobody(
    known: KnownEmbeddings,
    seed: Seed,
    erased: Sequence[str],
    unknown: Sequence[str],
    others: Sequence[str],
    version: str,
) -> str:
    said = [
        f"{what}: {names_of(found)}"
        for what, found in (
            ("erased", erased),
            ("without an embedding", unknown),
            ("with an embedding of another model", others),
        )
        if found
    ]
    return (
        f"nobody of the seed ({seed.like}, {len(seed.customers):,} customers) has an embedding of model {version}: "
        f"{'; '.join(said)}. Ids are case-sensitive" + (_mixed(known, version) if others else "")
    )
