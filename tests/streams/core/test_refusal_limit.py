"""The limit on refused records: counts decide, not batches, not the clock."""

from __future__ import annotations

import random

import pytest

from schemas.deadletter import Refused
from schemas.errors import Stop, TopicUnfit
from streams.core.refusal_limit import RefusalLimit


def dead_letter(reason: str = "invalid_field") -> Refused:
    return Refused("dead-letter", None, b"", reason=reason, offset=0)


def feed(limit: RefusalLimit, verdicts: list[bool], sizes: list[int], topic: str = "clickstream") -> int | None:
    """How many batches went well; None where all did."""
    at = 0
    for number, size in enumerate(sizes):
        batch = verdicts[at : at + size]
        try:
            limit.observe(topic, len(batch), [(place, dead_letter()) for place, bad in enumerate(batch) if bad])
        except TopicUnfit:
            return number
        at += size
    return None


def test_says_what_is_wrong_and_what_to_do() -> None:
    limit = RefusalLimit(0.5, 10)
    reasons = ["malformed", *["invalid_field"] * 5]
    with pytest.raises(TopicUnfit) as error:
        limit.observe("clickstream", 10, [(4 + place, dead_letter(reason)) for place, reason in enumerate(reasons)])
    said = str(error.value)
    assert "6 of the last 10 records of clickstream were refused (60%), 5 of them as invalid_field" in said
    assert "dead-letters list --topic clickstream --reason invalid_field" in said
    assert "PULSEGRAPH_INGEST_REFUSED_SHARE=1" in said
    assert isinstance(error.value, Stop)


def test_few_records_are_never_judged() -> None:
    assert feed(RefusalLimit(0.5, 100), [True] * 99, [99]) is None


def test_exactly_the_share_is_allowed() -> None:
    limit = RefusalLimit(0.5, 100)
    assert feed(limit, [True] * 50 + [False] * 50, [100]) is None
    assert limit.share("clickstream") == 0.5


def test_old_refusals_are_forgotten() -> None:
    verdicts = [True] * 40 + [False] * 100 + [True] * 40 + [False] * 100
    assert feed(RefusalLimit(0.5, 100), verdicts, [7] * 40) is None


def test_a_bad_run_in_a_large_batch_is_found() -> None:
    verdicts = [False] * 5_000 + [True] * 60 + [False] * 5_000
    assert feed(RefusalLimit(0.5, 100), verdicts, [len(verdicts)]) == 0


def test_topics_are_judged_each_by_itself() -> None:
    limit = RefusalLimit(0.5, 100)
    assert feed(limit, [False] * 1_000, [1_000], "redemptions") is None
    assert feed(limit, [True] * 100, [100], "clickstream") == 0


def test_a_share_of_one_allows_everything() -> None:
    assert feed(RefusalLimit(1.0, 10), [True] * 1_000, [100] * 10) is None


def test_batches_do_not_matter() -> None:
    rng = random.Random(5)
    for _ in range(200):
        verdicts = [rng.random() < 0.5 for _ in range(300)]
        whole = feed(RefusalLimit(0.5, 50), verdicts, [300])
        single = feed(RefusalLimit(0.5, 50), verdicts, [1] * 300)
        assert (whole is None) == (single is None)
