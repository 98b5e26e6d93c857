"""The cache of decoded customers holds what its budget allows, and lets go of who was away longest."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from support.logs import START_MS, Sent, Worker, log_of

from schemas.events import CLICKSTREAM
from streams.core.cache import DECODED_PER_ENCODED, CustomerCache

NAMES = ["a", "b", "c", "d", "e"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.integers(0, 5_000)),
        st.tuples(st.sampled_from(["get", "remove"]), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("shrink"), st.sampled_from(NAMES), st.just(0)),
    ),
    max_size=40,
)


def cost(encoded_bytes: int) -> int:
    """Of one customer, as a cache of nobody else reckons it."""
    alone = CustomerCache(0)
    alone.put("alone", cast(Any, object()), encoded_bytes)
    return alone.used_bytes


@given(budget_bytes=st.integers(0, 200_000), steps=STEPS)
def test_it_keeps_the_budget_and_forgets_the_least_recently_used(
    budget_bytes: int, steps: list[tuple[str, str, int]]
) -> None:
    cache, expected, evicted = CustomerCache(budget_bytes), dict[str, int](), 0
    for step, name, size in steps:
        if step == "put":
            if name not in expected:
                cache.put(name, cast(Any, name), size)
            else:
                cache.resize(name, size)
            expected[name] = cost(size)
        elif step == "get":
            assert (cache.get(name) is not None) == (name in expected)
            if name in expected:
                expected[name] = expected.pop(name)  # to the end: just used
        elif step == "remove":
            cache.remove(name)
            expected.pop(name, None)
        else:
            cache.shrink({name})
            for known in [known for known in expected if known != name]:
                if sum(expected.values()) <= budget_bytes:
                    break
                del expected[known]
                evicted += 1
            assert cache.used_bytes <= max(budget_bytes, expected.get(name, 0))
        assert [known for known in NAMES if cache.peek(known)] == sorted(expected)
        assert (len(cache), cache.used_bytes, cache.evicted) == (len(expected), sum(expected.values()), evicted)


def test_a_larger_record_costs_in_proportion() -> None:
    assert cost(2_000) - cost(1_000) == 1_000 * DECODED_PER_ENCODED


def test_a_partition_keeps_nobody_in_memory_beyond_its_budget() -> None:
    events = [
        Sent(CLICKSTREAM, f"c{number}", START_MS + number, {"event": "app_open", "event_ts_ms": START_MS + number})
        for number in range(50)
    ]
    log = log_of(events)[CLICKSTREAM]
    roomy, narrow = Worker(), Worker(cache_bytes=0)
    for worker in (roomy, narrow):
        worker.take(CLICKSTREAM, log[:50])
        worker.checkpoint()
    assert len(roomy.ingest.cache) == 50
    assert len(narrow.ingest.cache) == 0
