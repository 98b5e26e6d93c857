"""Audiences: the members are those who are most alike, by any order of records, and bad input says what to do."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.snapshots import plain_snapshot

from models import neighbours
from models.neighbours import SeedIndex, Whitened
from schemas.codec import json_encode
from schemas.embeddings import CustomerEmbedding
from schemas.errors import ConfigError, DeadLetter
from schemas.snapshot import Candidate, Outcome
from streams.commands.audience import write
from streams.core.config import CoreConfig
from streams.inspect.seeds import SeedFile, labelled, read_seed_file, redeemed, responded, seed_of_lines
from streams.serving.audience import Seed, find_audience, member_records, names_of
from streams.serving.known_embeddings import KnownEmbeddings

WIDTH = 4


def told(known: KnownEmbeddings, name: str, vector: list[float], model: str = "m1", sent_ms: int = 1) -> None:
    record = CustomerEmbedding(
        customer_id=name, as_of_ms=sent_ms, model_version=model, question_id="q", embedding=vector
    )
    known.read(name.encode(), json_encode(record), sent_ms)


def everybody(count: int, seed: int = 0, model: str = "m1") -> KnownEmbeddings:
    known = KnownEmbeddings()
    for number, vector in enumerate(np.random.default_rng(seed).normal(size=(count, WIDTH)).tolist()):
        told(known, f"c{number:03d}", vector, model)
    return known


vectors = st.lists(st.floats(-4, 4, width=32), min_size=WIDTH, max_size=WIDTH)
records = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.none() | st.tuples(vectors, st.sampled_from(["m1", "m2"]))), max_size=40
)


@settings(max_examples=examples(200), deadline=None)
@given(records)
def test_the_newest_record_of_a_customer_holds(said):
    known, newest = KnownEmbeddings(), {}
    for at, (name, record) in enumerate(said):
        newest[name] = record, at
        if record is None:
            known.read(name.encode(), None, at)
        else:
            told(known, name, record[0], record[1], sent_ms=at)
    assert known.erased == {name for name, (record, _) in newest.items() if record is None}
    assert known.unreadable == 0 and len(known) == len(newest) - len(known.erased)
    for model in ("m1", "m2"):
        expected = {name: (record[0], at) for name, (record, at) in newest.items() if record and record[1] == model}
        assert known.models.get(model, 0) == len(expected)
        if expected:
            found = known.of_model(model)
            assert found.customers == sorted(expected)
            np.testing.assert_array_equal(found.vectors, [expected[name][0] for name in found.customers])
            assert found.as_of_ms == [expected[name][1] for name in found.customers]


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_members_are_the_best_of_all_who_are_not_the_seed(data):
    count = data.draw(st.integers(3, 60))
    known = everybody(count, data.draw(st.integers(0, 99)))
    names = [f"c{number:03d}" for number in range(count)]
    seed = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=count - 1, unique=True))
    size = data.draw(st.integers(1, count - len(seed)))
    found = find_audience(known, Seed(seed, "file:x"), size)
    there = known.of_model("m1")
    unit = Whitened(there.vectors)(there.vectors).astype(np.float64)
    is_seed = np.isin(there.customers, seed)
    cosines = np.sort(unit @ unit[is_seed].T, axis=1)[:, -neighbours.NEAREST :].mean(axis=1)
    wanted = sorted(cosines[~is_seed], reverse=True)
    assert [member.score for member in found.members] == pytest.approx(wanted[:size], abs=1e-5)
    assert [member.rank for member in found.members] == list(range(1, size + 1))
    assert not {member.customer_id for member in found.members} & set(seed)
    assert found.seed == sorted(seed)


def test_customers_who_are_equal_are_in_the_order_of_their_ids() -> None:
    known = KnownEmbeddings()
    for name in ("b", "c", "a", "s"):
        told(known, name, [1.0, 0.0, 0.0, 0.0])
    told(known, "other", [-1.0, 0.0, 0.0, 0.0])
    found = find_audience(known, Seed(["s"], "file:x"), 4)
    assert [member.customer_id for member in found.members] == ["a", "b", "c", "other"]


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(1, 80), st.integers(1, 12), st.integers(0, 99))
def test_every_direction_counts_alike(count, width, seed):
    generator = np.random.default_rng(seed)
    scales = 10.0 ** generator.uniform(-1, 1, width)
    known = (generator.normal(size=(count, width)) * scales + 5).astype(np.float32)
    space = Whitened(known)
    unit = space(known)
    assert unit.shape == (count, space.width) and 1 <= space.width <= max(1, min(width, count // 10))
    length = np.linalg.norm(unit, axis=1)
    assert ((abs(length - 1) < 1e-3) | (length < 1e-3)).all()
    if count >= 10 * width:
        other = generator.normal(size=(width, width)) + 5 * np.eye(width)  # another basis of the same embeddings
        turned = (known @ other).astype(np.float32)
        np.testing.assert_allclose(Whitened(turned)(turned) @ Whitened(turned)(turned).T, unit @ unit.T, atol=0.02)


def test_a_large_seed_is_searched_by_a_graph_that_finds_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(2).normal(size=(2_500, 16)).astype(np.float32)
    seeds, others = np.split(Whitened(vectors)(vectors), [2_000])
    exact = SeedIndex(seeds).scores(others)
    monkeypatch.setattr(neighbours, "EXACT", 1_000)
    found = SeedIndex(seeds).scores(others)
    assert np.abs(found - exact).max() < 0.05 and np.abs(found - exact).mean() < 1e-3


def test_records_that_are_no_embeddings_are_counted_and_change_nothing() -> None:
    known = everybody(3)
    for key, value in ((b"c000", b"{"), (b"\xff", None), (b"c001", json_encode({"customer_id": "c001"}))):
        known.read(key, value, 9)
    told(known, "c002", [1.0, 2.0])  # of another width
    told(known, "c002", [])
    known.read(
        b"c001",
        json_encode(
            CustomerEmbedding(
                customer_id="c002", as_of_ms=1, model_version="m1", question_id="q", embedding=[1.0] * WIDTH
            )
        ),
        9,
    )
    assert known.unreadable == 6 and known.models == {"m1": 3} and known.erased == set()


def test_what_cannot_be_found_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="nobody has an embedding yet: run workers with the role encode"):
        find_audience(KnownEmbeddings(), Seed(["c000"], "file:x"), 1)
    known = everybody(5)
    with pytest.raises(ConfigError, match=r"only 4 customers outside the seed .* give --size 4 or less$"):
        find_audience(known, Seed(["c000"], "file:x"), 5)
    known.read(b"c001", None, 5)
    with pytest.raises(ConfigError, match=r"nobody of the seed .* erased: c001; without an embedding: C000.*case"):
        find_audience(known, Seed(["c001", "C000"], "file:x"), 1)
    told(known, "new", [1.0] * WIDTH, "m2", sent_ms=9)
    assert known.newest_model == "m2"
    with pytest.raises(ConfigError, match=r"with an embedding of another model: c000\. .* 4 have one .*--model takes"):
        find_audience(known, Seed(["c000"], "file:x"), 1)
    with pytest.raises(ConfigError, match=r"only 0 customers .*; 4 have one of another model"):
        find_audience(known, Seed(["new"], "file:x"), 1)
    with pytest.raises(ConfigError, match=r"no embedding is of model 'm3': there are those of m1 \(4 customers\), m2"):
        find_audience(known, Seed(["c000"], "file:x"), 1, "m3")
    found = find_audience(known, Seed(["c000", "c001", "new", "who"], "file:x"), 3, "m1")
    assert (found.seed, found.erased, found.unknown, found.of_other_models) == (["c000"], ["c001"], ["who"], ["new"])


def test_a_model_that_nobody_is_of_any_more_is_not_chosen() -> None:
    known = everybody(5)
    told(known, "c000", [1.0] * WIDTH, "m2", sent_ms=9)
    known.read(b"c000", None, 10)
    assert find_audience(known, Seed(["c001"], "file:x"), 2).model_version == "m1"


def test_records_of_an_audience_say_which_list_they_are_of() -> None:
    seed = Seed(["c000", "c001"], "campaign:26")
    found = find_audience(everybody(9), seed, 4)
    made = list(member_records(found, seed, "spring", [3, 6], 77))
    assert [(m.customer_id, m.rank, m.score) for m in made] == [(m.customer_id, m.rank, m.score) for m in found.members]
    assert {(m.size, m.seed, m.like, m.name, m.made_ms, m.model_version) for m in made} == {
        (4, 2, "campaign:26", "spring", 77, "m1")
    }
    again = list(member_records(found, seed, "spring", [3, 6], 78))
    assert {m.audience_id for m in made} == {m.audience_id for m in again} and len({m.audience_id for m in made}) == 1
    for name, read in (("spring", [3, 7]), ("summer", [3, 6])):
        assert next(member_records(found, seed, name, read, 77)).audience_id != made[0].audience_id


ids = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12).filter(
    lambda name: name.lower() not in ("customer_id", "customerid", "customer", "id", "null", "none", "nan", "undefined")
)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(ids, min_size=1, max_size=12), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.data())
def test_ids_are_read_back_however_csv_quotes_them(names, header, ending, data):
    out = io.StringIO()
    quoting = data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    rows = csv.writer(out, quoting=quoting, lineterminator=ending)
    if header:
        rows.writerow(["customer_id", "score"])
    blank = 0
    for name in names:
        if data.draw(st.booleans()):
            out.write(ending)
            blank += 1
        rows.writerow([name, "0.5"])
    try:
        found = seed_of_lines(out.getvalue().splitlines())
    except DeadLetter:
        return  # an id that no customer can have
    assert found == SeedFile(list(dict.fromkeys(names)), len(names) - len(set(names)), blank)


def test_an_audience_is_a_seed_of_the_next(tmp_path) -> None:
    found = find_audience(everybody(9), Seed(["c000"], "file:x"), 4)
    path = tmp_path / "audience.csv"
    with path.open("w") as out:
        write(out, found)
    assert path.read_text().splitlines()[0] == "customer_id,score,rank"
    assert read_seed_file(path).customers == [member.customer_id for member in found.members]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no id: write one a line"),
        (b"customer_id\n\n", "holds no id"),
        (b"a\n\xff\n", r"is not UTF-8 text \(invalid start byte at byte 2\)"),
        (b'"a\n', "unexpected end of data"),
        (b"x" * 200, "a customer id has at most 128 characters"),
    ],
)
def test_a_file_that_is_none_says_so(content: bytes, match: str, tmp_path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        read_seed_file(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_seed_file(tmp_path / "absent")


def test_many_names_are_told_shortly() -> None:
    assert names_of(list("abcdefgh")) == "a, b, c, d, e and 3 more"


def test_a_machine_that_opens_a_message_is_nobody() -> None:
    def step(customer: str, event: str, at_ms: int, campaign: str = "26") -> tuple[bytes, bytes]:
        return customer.encode(), json_encode({"campaign_id": campaign, "event": event, "event_ts_ms": at_ms})

    records = [
        *(step(name, "send", 1_000) for name in "abcde"),
        *(step(name, "delivered", 3_000) for name in "abcde"),
        step("a", "open", 8_000),
        step("b", "open", 8_001),
        step("c", "open", 3_010),
        step("c", "click", 3_020),
        step("d", "bounce", 9_000),
        step("e", "open", 90_000, campaign="27"),
        step("f", "open", 5),  # its send is not kept any more
        (None, step("g", "click", 5)[1]),
        (b"h", b"{"),
        (b"i", None),
    ]
    assert responded(records, "26", CoreConfig().machine_open_ms) == {"b", "c", "f"}
    assert redeemed([step("a", "", 5), step("b", "", 5, campaign="27"), (b"c", b'{"offer_id": "o"}')], "26") == {"a"}


def test_outcomes_name_who_answered_whatever_comes_first() -> None:
    def about(customer: str, campaign: str, redemption: int, response: int) -> list[Outcome]:
        snapshot = plain_snapshot(
            customer_id=customer, question_id=f"{customer}-{campaign}", kind="send", candidate=Candidate(campaign)
        )
        shared = {
            "question_id": snapshot.question_id, "customer_id": customer, "as_of_ms": 1, "due_ms": 9, "resolved_ms": 8
        }  # fmt: skip
        return [
            Outcome(head="response", labels={"response": response}, snapshot=None, **shared),
            Outcome(head="redemption", labels={"redemption": redemption}, snapshot=snapshot, **shared),
        ]

    outcomes = [
        *about("a", "26", 1, 0),
        *about("b", "26", 0, 1),
        *about("c", "26", 0, 0),
        *about("d", "27", 1, 1),
    ]
    assert labelled(lambda: outcomes, "26") == labelled(lambda: outcomes[::-1], "26") == {"a", "b"}
    assert labelled(lambda: outcomes, "28") == set()
