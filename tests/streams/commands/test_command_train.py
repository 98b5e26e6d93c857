"""``pulsegraph train`` on a tiny simulation, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support import model_worlds as worlds
from support.logs import START_MS
from support.small_model import save_small_model
from support.snapshots import hashes, plain_snapshot, recent

from models import metrics
from models.model import HeadReport
from models.outcomes import matured
from models.saved_model import read_card
from models.tokenizer import SPECIALS, Vocabulary, field_of
from models.versions import current
from schemas import codec
from schemas.catalog import CatalogEntry
from schemas.events import Clickstream, Profile
from schemas.predictions import Erasure
from schemas.snapshot import Outcome
from schemas.words import FIXED, SHARED_BY, Word, Words, hash_of, split, words_of
from streams import cli
from streams.commands.train import summary
from streams.core.config import DAY_MS, CoreConfig
from streams.core.context import Context
from streams.core.timeline import event_words
from streams.kafka.outbox import Outbox
from streams.kafka.partitioning import partition_for
from streams.offline.ingest import replay_checkpoints
from streams.offline.training import SourceEvent, build_vocabulary, counted, outcomes_of, vocabulary_of
from streams.sources import source as sources
from streams.sources.source import load_source


@pytest.mark.slow
def test_trains_and_says_what_it_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    monkeypatch.setenv("PULSEGRAPH_CORE_CHURN_HORIZON_MS", str(14 * 86_400_000))
    options = ["--data", "simulation", "--customers", "60", "--until", "2017-04-15", "--epochs", "1"]
    assert cli.main(["train", *options, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    card = read_card(out)
    assert card.horizon_days == 14
    assert captured.out.startswith(f"model {card.model_version} written to {current(out)}\n")
    assert card.report.early > 0
    assert f"{card.report.outcomes:,} outcomes, {card.report.early:,} more left out until" in captured.out
    for head in card.report.heads:
        assert f"{head}: AUC " in captured.out
    assert captured.err.startswith("training   0 %")


def test_says_which_head_was_not_trained_and_why(tmp_path: Path) -> None:
    card = read_card(save_small_model(tmp_path / "model"))
    report = msgspec.structs.replace(card.report, outcomes=9, early=2, left_out={"redemption": "no outcomes"})
    assert list(summary(msgspec.structs.replace(card, report=report))) == [
        "9 outcomes, 2 more left out until their horizon ends, 0 s",
        "encoder: 0.0 epochs, 0 steps; best after 0.0",
        "redemption: not trained, no outcomes",
    ]


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        (0.0019, []),
        (0.0031, ["churn: 700 rows are too few to see what the encoder adds: a gain of log loss below 0.0031"]),
        (None, ["churn: 700 rows are too few to see what the encoder adds: any gain of log loss"]),
    ],
)
def test_says_where_a_gate_had_too_few_rows(visible: float | None, said: list[str], tmp_path: Path) -> None:
    card = read_card(save_small_model(tmp_path / "model"))
    nothing = metrics.score(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    head = HeadReport(
        split="later", train_rows=9, gate_rows=700, wide=nothing, model=nothing, live=nothing, gate=0.0,
        visible_gain=visible, embedding_auc=None,
    )  # fmt: skip
    report = msgspec.structs.replace(card.report, heads={"churn": head})
    lines = list(summary(msgspec.structs.replace(card, report=report)))
    assert [line for line in lines if "too few" in line] == said


def test_what_is_learned_from_is_what_a_later_look_at_the_same_questions_finds() -> None:
    source, config, until_ms = load_source("simulation", seed=1, customers=40), CoreConfig(), 1_492_214_400_000
    after_ms = until_ms + 60 * DAY_MS
    events = source.history(after_ms)

    def looked(at_ms: int) -> list[Outcome]:
        past = [event for event in events if event[3] < at_ms]
        return outcomes_of(past, config, at_ms, lambda share, text: None)

    def told(found: list[Outcome]) -> set[tuple[str, int]]:
        return {(outcome.outcome_id, outcome.label) for outcome in found}

    now, later = looked(until_ms), looked(after_ms)
    young_ms = until_ms - 7 * DAY_MS
    assert {o.label for o in now if o.head == "churn" and o.as_of_ms > young_ms} == {0}, "the censored ones"
    assert told(matured(now, until_ms)) == told(matured(later, until_ms))
    assert {o.label for o in matured(now, until_ms) if o.head == "churn"} == {0, 1}


@pytest.mark.slow
def test_nothing_is_known_of_the_time_behind_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SIMULATION_DAYS", 100)
    defaults = {**(sources.load_source.__kwdefaults__ or {}), "customers": 60, "days": 100}
    monkeypatch.setattr(sources.load_source, "__kwdefaults__", defaults)
    cards = []
    for until in ("2017-04-11", "2019-01-01"):
        options = ["--data", "simulation", "--customers", "60", "--until", until, "--epochs", "1"]
        assert cli.main(["train", *options, "--out", str(tmp_path / until)]) == 0
        cards.append(read_card(tmp_path / until))
    assert cards[0].report.outcomes == cards[1].report.outcomes
    assert cards[0].report.early == cards[1].report.early > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "2016-01-01"], "no events before 2016-01-01"),
        (["--until", "soon"], "write it like 2017-07-01"),
        (["--budget", "0"], "seconds above 0"),
        (["--epochs", "0"], "epochs above 0"),
        (["--until", "2017-04-15", "--customers", "60", "--budget", "1e-6"], "the encoder has seen 0% of the rows"),
        (["--base", "./nowhere"], "pulsegraph.json cannot be read (No such file or directory)"),
        (["--base", "./a", "--encoder", "./b"], "omit --encoder, or train without --base"),
        (["--threads", "0"], "threads"),
        (["--input", "text"], "name one (--encoder NAME)"),
        (["--encoder", "./nowhere"], "--encoder ./nowhere: there is no such folder"),
        (["--until", "2017-01-02", "--customers", "2"], "nothing to learn from"),
    ],
)
def test_says_what_to_do(options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--data", "simulation", *options, "--out", str(tmp_path / "model")]
    assert cli.main(argv) == 2
    assert said in capsys.readouterr().err


def test_a_horizon_is_whole_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSEGRAPH_CORE_CHURN_HORIZON_MS", str(36 * 3_600_000))
    assert cli.main(["train", "--data", "simulation", "--customers", "2", "--out", str(tmp_path / "model")]) == 2
    assert "such as 86400000 ms" in capsys.readouterr().err


def _spoken(events: list[SourceEvent]) -> dict[bytes, str]:
    """Names of the words that events are written in, as ingest gives them to the topic."""
    words, config = Words(), CoreConfig()
    for topic, customer_id, body, _ in events:
        if topic != "profiles":
            event_words(body, Context(config, words, 0, customer_id))
    return {hash_of(word): word for word in words.take_new()}


def _said_in(found: list[Outcome]) -> set[bytes]:
    columns = [outcome.snapshot.recent.words for outcome in found if outcome.snapshot is not None]
    return {word for column in columns for word in split(column)}


def _learned(directory: Path) -> set[str]:
    """Words that a model has rows for because of what it learned from."""
    return set(Vocabulary.load(directory).names) - {*SPECIALS, *FIXED}


def test_learns_from_what_a_deployment_recorded(
    broker: Any, make_topics: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out, until_ms = tmp_path / "base", tmp_path / "out", 1_492_214_400_000
    source = load_source("simulation", seed=0, customers=60)
    told = ["--data", "simulation", "--customers", "60", "--until", "2017-04-15", "--epochs", "1"]
    assert cli.main(["train", *told, "--out", str(base)]) == 0
    first = read_card(base)
    capsys.readouterr()

    prefix = make_topics(partitions=2)
    outbox, sent = Outbox(broker.bootstrap, prefix=prefix), 0
    written: dict[int, list[Outcome]] = {0: [], 1: []}
    for checkpoint in replay_checkpoints(source.history(until_ms), CoreConfig(), until_ms=until_ms):
        for outcome in checkpoint.outcomes:
            key = outcome.customer_id.encode()
            for _ in range(2 if sent % 10 == 0 else 1):  # delivered at least once
                outbox.send("outcomes", key, codec.msgpack_encode(outcome), partition=partition_for(key, 2))
            written[partition_for(key, 2)].append(outcome)
            sent += 1
    gone = written[0][0].customer_id
    receipt = Erasure(receipt_id="r", customer_id=gone, erased_ms=until_ms, source=("profiles", 0, 1))
    outbox.send("erasures", gone.encode(), codec.json_encode(receipt))
    outbox.send("outcomes", b"c", b"of another release", partition=0)
    for entry in source.catalog().values():
        outbox.send("catalog", entry.key.encode(), codec.json_encode(entry))
    outbox.send("catalog", b"item:1", b"{", partition=0)
    names = _spoken(source.history(until_ms))
    nameless = next(word for word in names.values() if word.startswith("item:"))
    for hashed, word in [*names.items(), (hash_of("item:never-sold"), "item:never-sold")]:
        if word != nameless:
            told_of = Word(hash=hashed.hex(), word=word)
            outbox.send("words", hashed.hex().encode(), codec.json_encode(told_of))
    outbox.send("words", b"00000000", b"{", partition=0)
    outbox.close(30)

    argv = ["train", "--from-topics", "--out", str(out), "--epochs", "1"]
    assert cli.main([*argv, "--bootstrap", broker.bootstrap, "--prefix", prefix]) == 0
    said = capsys.readouterr()
    kept = [o for found in written.values() for o in found if o.customer_id != gone]
    known_ms = {partition: max(o.resolved_ms for o in found) for partition, found in written.items()}
    ended = [o for o in kept if o.due_ms <= known_ms[partition_for(o.customer_id.encode(), 2)]]
    assert 0 < len(ended) < len(kept) < sent
    assert (
        f"left out: {(sent + 9) // 10} repeated, 1 of another version, {sent - len(kept)} of erased customers, "
        f"{len(kept) - len(ended)} whose horizon has not ended, 1 of the catalog"
    ) in said.err
    # Labels that came by themselves are no rows of their own.
    everything, left, learned = (
        sum(o.snapshot is not None for o in found)
        for found in ([o for of in written.values() for o in of], kept, ended)
    )
    assert first.report.outcomes + first.report.early == everything < sent
    report = read_card(out).report
    assert (report.outcomes, report.early) == (learned, left - learned)
    titles = {word for entry in source.catalog().values() for word in words_of(entry.title or "")}
    used = {names[hashed] for hashed in _said_in(ended) if hashed in names}
    assert nameless in used, "or this tests nothing"
    assert _learned(out) == {word for word in used | titles if field_of(word) is not None} - {nameless, *FIXED}
    assert _learned(out) < _learned(base), "which counts the words of all events"


def test_a_vocabulary_counts_words_where_outcomes_say_them() -> None:
    said = [*["item:a"] * 3, "item:b", "cat:tea", "evt:purchase", "wish"]
    snapshots = [
        plain_snapshot(
            recent=recent([(START_MS, hashes("[SESSION]", *said)), (START_MS, hashes("item:b", "[/SESSION]"))])
        ),
        plain_snapshot(recent=recent([(START_MS, hashes("item:c"))])),
        plain_snapshot(),
    ]
    counts = counted(worlds.outcome(f"q{number}", made, 0) for number, made in enumerate(snapshots))
    assert counts == {
        hash_of(word): 1 for word in ("[SESSION]", "cat:tea", "evt:purchase", "wish", "[/SESSION]", "item:c")
    } | {
        hash_of("item:a"): 3,
        hash_of("item:b"): 2,
    }
    names = {hash_of(word): word for word in (*said, "[SESSION]", "item:never-said") if word != "wish"}
    catalog = {"item:a": CatalogEntry(kind="item", id="a", title="Green Tea")}
    vocabulary = vocabulary_of(counts, names, catalog)
    assert [name for name in vocabulary.names if name not in (*SPECIALS, *FIXED)] == [
        *("cat:tea", "evt:purchase"),  # what there is little of comes first
        *("item:a", "item:b", "green", "tea"),
    ]


def test_a_vocabulary_of_events_holds_what_was_typed_by_enough_customers() -> None:
    def search(customer: str, query: str) -> SourceEvent:
        return ("clickstream", customer, Clickstream(event="search", event_ts_ms=START_MS, query=query), START_MS)

    events = [search(f"c{number}", "dark roast") for number in range(SHARED_BY)]
    profile = Profile(event_ts_ms=START_MS, attributes={"age": "45-54", "name": "Ann"})
    events += [search("c0", "secret")] * SHARED_BY + [("profiles", "c0", profile, START_MS)] * SHARED_BY
    allowed = build_vocabulary(events, {}, CoreConfig(model_attributes=("age",)))
    assert "attr:age=45-54" in allowed.names
    found = build_vocabulary(events, {}, CoreConfig())
    assert {name for name in found.names if name not in (*SPECIALS, *FIXED)} == {"evt:search", "dark", "roast"}
