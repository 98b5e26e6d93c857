"""Two runs compared: what is equal says nothing, what differs is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.faults.compare import same, same_lines, same_predictions
from infra.faults.stream import Expected, RecordedStream
from streams.core.config import CoreConfig


def _dump(path: Path, customers: dict[str, int]) -> Path:
    lines = [{"id": name, "role": "ingest", "state": {"events": count}} for name, count in sorted(customers.items())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
)
def test_dumps_are_compared_as_the_dicts_they_are(tmp_path_factory, expected, found):
    folder = tmp_path_factory.mktemp("dumps")
    check = same_lines(_dump(folder / "a", expected), _dump(folder / "b", found))
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    assert check.different == len(wrong) == same(expected, found).different
    assert check.compared == len(expected)


def test_a_difference_says_where(tmp_path):
    check = same_lines(_dump(tmp_path / "a", {"x": 1}), _dump(tmp_path / "b", {"x": 2}))
    assert check.examples == ["ingest x: differs in state.events (1 / 2)"]


def _prediction(number: int, kind: str, probability: float) -> dict:
    named = {"question_id": str(number), "model_version": "m", "source": [], "as_of_ms": number}
    return {"customer_id": "c", "snapshot_kind": kind, "probability": probability, **named}


def test_predictions_may_miss_what_was_coalesced_and_nothing_else():
    full = {
        "1": _prediction(1, "event", 0.1),
        "2": _prediction(2, "horizon", 0.2),
        "3": _prediction(3, "event", 0.3),
    }
    coalesced = {key: told for key, told in full.items() if key != "1"}
    assert same_predictions(full, coalesced, set()).different == 0
    assert same_predictions(full, {"1": full["1"], "2": full["2"]}, set()).different == 1
    assert same_predictions(full, {"1": full["1"], "3": full["3"]}, set()).different == 1
    assert same_predictions(full, full | {"3": _prediction(3, "event", 0.3009)}, set()).different == 0
    assert same_predictions(full, full | {"3": _prediction(3, "event", 0.3011)}, set()).different == 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_where_only_news_is_sent_what_is_in_force_may_differ_by_two_margins(one: float, other: float) -> None:
    def in_force(number: int, said: float) -> dict:
        return {"0": _prediction(0, "event", 0.5), str(number): _prediction(number, "event", said)}

    check = same_predictions(in_force(1, one), in_force(2, other), set(), 0.02)
    assert check.different == (abs(one - other) > 0.041)
    more = in_force(2, other)
    more["2"]["repeat_purchase_7d"] = 0.3
    assert same_predictions(in_force(1, one), more, set(), 0.02).different == 1
    assert same_predictions(in_force(1, one), in_force(2, other), set()).different == 1


def _ranked(*probabilities: float) -> dict:
    items = [{"item_id": str(at), "probability": one} for at, one in enumerate(probabilities)]
    return {"customer_id": "c", "snapshot_kind": "horizon", "items": items}


def test_rankings_are_compared_rank_by_rank():
    full = {"1": _ranked(0.3, 0.1)}
    assert same_predictions(full, {"1": _ranked(0.3009, 0.0991)}, set()).different == 0
    assert same_predictions(full, {"1": _ranked(0.3, 0.1011)}, set()).different == 1
    assert same_predictions(full, {"1": _ranked(0.3)}, set()).different == 1
    assert same_predictions({"1": _ranked()}, {"1": _ranked()}, set()).different == 0


@pytest.fixture(scope="module")
def wires():
    return list(RecordedStream(5, 3_000, 2, 1_700_000_000_000).records())


def _expected(wires) -> Expected:
    expected = Expected(CoreConfig())
    offsets: dict[tuple[str, int], int] = {}
    for wire in wires:
        place = wire.topic, wire.partition
        offsets[place] = offsets.get(place, -1) + 1
        expected.take(wire.topic, wire.partition, offsets[place], wire)
    return expected


def test_a_recorded_stream_is_the_same_every_time(wires):
    assert wires == list(RecordedStream(5, 3_000, 2, 1_700_000_000_000).records())
    assert wires != list(RecordedStream(6, 3_000, 2, 1_700_000_000_000).records())


def test_a_stream_has_every_fault_in_it_and_each_record_is_accounted_for(wires):
    expected = _expected(wires)
    known = sum(expected.events.values())
    assert min(known, expected.duplicates, expected.late, len(expected.refused)) > 0
    assert known + expected.duplicates + len(expected.refused) + expected.heartbeats == expected.records, (
        "late ones count"
    )
    assert expected.digests() == _expected(wires).digests()
    assert _expected(wires[1:]).digests() != expected.digests()
