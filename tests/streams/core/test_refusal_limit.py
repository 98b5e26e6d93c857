"""The limit on refused records: counts of each source decide, not batches, not the clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.deadletter import Refused
from streams.core.refusal_limit import MOST_SOURCES, RefusalLimit

Verdicts = list[tuple[str, bool]]
"""(source, refused) of records in order."""


def dead_letter(reason: str = "invalid_field") -> Refused:
    return Refused("dead-letter", None, b"", reason=reason, offset=0)


def feed(limit: RefusalLimit, verdicts: Verdicts, sizes: list[int], topic: str = "clickstream") -> bool:
    """Whether the topic was found unfit in some batch."""
    unfit, at = False, 0
    for size in sizes:
        batch = verdicts[at : at + size]
        refused = [(place, dead_letter()) for place, (_, bad) in enumerate(batch) if bad]
        unfit |= limit.observe(topic, [source for source, _ in batch], refused)
        at += size
    return unfit


def of_one(*runs: tuple[bool, int], source: str = "") -> Verdicts:
    return [(source, bad) for bad, count in runs for _ in range(count)]


def test_one_bad_producer_is_told_and_stops_nobody() -> None:
    limit = RefusalLimit(0.5, 1_000)
    verdicts = [
        (source, source == "bad" and number % 1_000 < 501) for number in range(2_000) for source in ("good", "bad")
    ]
    assert not feed(limit, verdicts, [400] * 10)
    (found,) = limit.refused("clickstream")
    assert (found.topic, found.source, dict(found.reasons)) == ("clickstream", "bad", {"invalid_field": 0.501})
    assert limit.refused("redemptions") == []


def test_reasons_are_told_apart_and_count_together() -> None:
    limit = RefusalLimit(0.5, 10)
    reasons = ["malformed", "invalid_field", "malformed", "out_of_time", "malformed", "invalid_field"]
    assert limit.observe("clickstream", ["a"] * 10, [(place, dead_letter(why)) for place, why in enumerate(reasons, 4)])
    (found,) = limit.refused("clickstream")
    assert list(found.reasons.items()) == [("malformed", 0.3), ("invalid_field", 0.2), ("out_of_time", 0.1)]


def test_a_topic_is_unfit_where_every_source_is_refused() -> None:
    limit = RefusalLimit(0.5, 100)
    assert not feed(limit, of_one((False, 5), source="a") + of_one((True, 500), source="b"), [505])
    assert feed(limit, of_one((True, 200), source="a"), [200])


def test_records_without_a_source_are_one() -> None:
    assert feed(RefusalLimit(0.5, 100), of_one((True, 100)), [100])


def test_few_records_are_never_judged() -> None:
    assert not feed(RefusalLimit(0.5, 100), of_one((True, 99)), [99])


def test_exactly_the_share_is_allowed() -> None:
    assert not feed(RefusalLimit(0.5, 100), of_one((True, 50), (False, 50)), [100])


def test_a_source_that_was_corrected_is_refused_no_more() -> None:
    limit = RefusalLimit(0.5, 100)
    feed(limit, of_one((True, 60), (False, 40), (True, 1)), [101])
    assert len(limit.refused("clickstream")) == 1
    feed(limit, of_one((False, 100)), [100])
    assert limit.refused("clickstream") == []


def test_a_bad_run_in_a_large_batch_is_found() -> None:
    assert feed(RefusalLimit(0.5, 100), of_one((False, 5_000), (True, 60), (False, 5_000)), [10_060])


def test_topics_are_judged_each_by_itself() -> None:
    limit = RefusalLimit(0.5, 100)
    assert not feed(limit, of_one((False, 1_000)), [1_000], "redemptions")
    assert feed(limit, of_one((True, 100)), [100], "clickstream")


def test_a_share_of_one_allows_everything() -> None:
    assert not feed(RefusalLimit(1.0, 10), of_one((True, 1_000)), [100] * 10)


def test_any_number_of_names_is_bounded() -> None:
    limit = RefusalLimit(0.5, 10)
    feed(limit, [(f"s{number}", True) for number in range(5_000)], [5_000])
    assert len(limit._sources["clickstream"]) == MOST_SOURCES


@given(
    verdicts=st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.booleans()), max_size=120),
    cuts=st.lists(st.integers(1, 40), max_size=20),
    window=st.integers(1, 12),
    share=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
)
def test_batches_do_not_matter_and_the_verdict_is_what_it_says(
    verdicts: Verdicts, cuts: list[int], window: int, share: float
) -> None:
    singly, whole, cut = (RefusalLimit(share, window) for _ in range(3))
    expected = feed(singly, verdicts, [1] * len(verdicts))
    assert feed(whole, verdicts, [len(verdicts)]) == expected
    assert feed(cut, verdicts, [*cuts, len(verdicts)]) == expected
    newest = {
        source: [bad for of, bad in verdicts if of == source][-window:] for source in {source for source, _ in verdicts}
    }
    over = {source for source, bad in newest.items() if len(bad) == window and sum(bad) > share * window}
    for limit in (singly, whole, cut):
        assert {found.source for found in limit.refused("clickstream")} == over
