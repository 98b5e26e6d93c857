"""``pulsegraph train`` on a tiny simulation, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.checkpoint import read_card
from models.tokenizer import FastLexicon
from schemas import codec
from streams import cli
from streams.core.config import CoreConfig
from streams.offline import replay_cuts
from streams.outbox import Outbox
from streams.partitioning import partition_for
from streams.sources import load_source


def test_trains_and_says_what_it_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    monkeypatch.setenv("PULSEGRAPH_CORE_CHURN_HORIZON_MS", str(14 * 86_400_000))
    options = ["--data", "simulation", "--customers", "60", "--until", "2017-04-15", "--budget", "1"]
    assert cli.main(["train", *options, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    card = read_card(out)
    assert card.horizon_days == 14
    assert captured.out.startswith(f"model {card.model_version} written to {out}\n")
    assert f"{card.report.outcomes:,} outcomes" in captured.out
    for head in card.report.heads:
        assert f"{head}: AUC " in captured.out
    assert captured.err.startswith("training   0 %")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "2016-01-01"], "no event before 2016-01-01"),
        (["--until", "soon"], "write it like 2017-07-01"),
        (["--budget", "0"], "seconds above 0"),
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


def test_learns_from_what_a_deployment_recorded(
    broker: Any, make_topics: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out, until_ms = tmp_path / "base", tmp_path / "out", 1_492_214_400_000
    source = load_source("simulation", seed=0, customers=60)
    told = ["--data", "simulation", "--customers", "60", "--until", "2017-04-15", "--budget", "1"]
    assert cli.main(["train", *told, "--out", str(base)]) == 0
    first = read_card(base)
    capsys.readouterr()

    prefix = make_topics(partitions=2)
    outbox, sent = Outbox(broker.bootstrap, prefix=prefix), 0
    for cut in replay_cuts(source.history(until_ms), CoreConfig(), FastLexicon.load(base), until_ms=until_ms):
        for outcome in cut.outcomes:
            key = outcome.snapshot.customer_id.encode()
            for _ in range(2 if sent % 10 == 0 else 1):  # delivered at least once
                outbox.send("outcomes", key, codec.msgpack_encode(outcome), partition=partition_for(key, 2))
            sent += 1
    outbox.send("outcomes", b"c", b"of another release", partition=0)
    for entry in source.catalog().values():
        outbox.send("catalog", entry.key.encode(), codec.json_encode(entry))
    outbox.send("catalog", b"item:1", b"{", partition=0)
    outbox.close(30)

    argv = ["train", "--from-topics", "--base", str(base), "--out", str(out), "--budget", "1"]
    assert cli.main([*argv, "--bootstrap", broker.bootstrap, "--prefix", prefix]) == 0
    said = capsys.readouterr()
    assert f"left out: {(sent + 9) // 10} repeated, 1 in other words, 1 of the catalog" in said.err
    assert read_card(out).report.outcomes == first.report.outcomes == sent
    assert FastLexicon.load(out).fingerprint == FastLexicon.load(base).fingerprint
