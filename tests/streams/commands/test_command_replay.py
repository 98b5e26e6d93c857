"""``pulsegraph replay`` and ``simulate`` from the command line, to a broker and to a file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.events import SOURCES
from streams import cli
from streams.kafka.reader import TopicReader
from streams.sources.simulate import Simulator

START_MS = 1_483_228_800_000


def _kept(broker: Any, prefix: str, topic: str) -> int:
    with TopicReader({"bootstrap.servers": broker.bootstrap}) as reader:
        places = [(prefix + topic, partition) for partition in range(reader.partitions(prefix + topic))]
        return sum(reader.ends(places).values())


def test_replay_reports_what_was_acknowledged(
    broker: Any, make_topics: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = make_topics()
    where = ["--bootstrap", broker.bootstrap, "--prefix", prefix]
    span = ["--from", "2017-01-03", "--to", "2017-01-06", "--limit", "300"]
    argv = ["replay", "--data", "simulation", "--customers", "40", *span, *where]
    assert cli.main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert 0 < report["events"] == sum(report["produced"].values())
    assert report["until_ms"] == START_MS + 5 * 86_400_000
    beats = report["heartbeats"] // len(SOURCES)
    assert _kept(broker, prefix, "clickstream") == report["produced"]["clickstream"] + beats
    assert _kept(broker, prefix, "catalog") == report["catalog"] > 0
    assert "replaying 100 %" in captured.err
    assert (report["late"], report["too_late"]) == (0, 0)
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "events in" in out
    late = re.search(r" ([\d,]+)  of these events are late, ([\d,]+) of them too late", out)
    assert late is not None, out
    # The last heartbeat, three days on, made all but the last minutes late, and the first day too late.
    assert report["events"] * 0.9 < int(late[1].replace(",", "")) <= report["events"]
    assert 0 < int(late[2].replace(",", "")) < report["events"] * 0.6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "2019-01-01"], "it runs from 2017-01-01"),
        (["--from", "2017-02-01", "--to", "2017-01-01"], "has no events between"),
        (["--limit", "0"], "above 0"),
        (["--rate", "-1"], "events per second above 0"),
        (["--bootstrap", "nowhere"], "PULSEGRAPH_KAFKA_BOOTSTRAP|kafka.bootstrap"),
    ],
)
def test_replay_says_what_to_do(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", "--data", "simulation", "--customers", "3", *options]) == 2
    message = capsys.readouterr().err
    assert any(part in message for part in said.split("|")), message
    assert message.count("\n") == 1


def test_replay_without_topics_names_the_command(
    broker: Any, topics_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--bootstrap", broker.bootstrap, "--prefix", topics_prefix]
    assert cli.main(["simulate", "--customers", "3", "--days", "2", *where]) == 2
    assert "pulsegraph topics create" in capsys.readouterr().err


def test_simulate_to_a_file_with_its_truth(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    out, truth = tmp_path / "events.jsonl", tmp_path / "truth.jsonl"
    options = ["simulate", "--customers", "20", "--days", "5", "--seed", "7", "--erased", "0.5"]
    assert cli.main([*options, "--out", str(out), "--truth", str(truth)]) == 0
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    records = list(Simulator(7, 20, START_MS, 5, erased_share=0.5).records())
    events = [line for line in lines if line["topic"] != "catalog"]
    assert [(line["topic"], line["key"], line["event_ts_ms"]) for line in events] == [
        (record.topic, record.key, record.event_ts_ms) for record in records
    ]
    assert any(line["value"] is None for line in events)
    assert (
        lines[0]["topic"] == "catalog" and lines[0]["key"] == f"{lines[0]['value']['kind']}:{lines[0]['value']['id']}"
    )
    known = [json.loads(line) for line in truth.read_bytes().splitlines()]
    assert len(known) == 20 and {"hazard_per_day", "peak_hour", "responses"} <= known[0].keys()
    assert cli.main([*options, "--out", "-"]) == 0
    assert capsysbinary.readouterr().out == out.read_bytes()


def test_simulate_with_faults_to_kafka(
    broker: Any, make_topics: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = make_topics()
    where = ["--bootstrap", broker.bootstrap, "--prefix", prefix]
    assert cli.main(["simulate", "--customers", "30", "--days", "4", "--faults", "--json", *where]) == 0
    produced = Counter(json.loads(capsys.readouterr().out)["produced"])
    clean = Counter(record.topic for record in Simulator(0, 30, START_MS, 4).records())
    assert produced.total() > clean.total()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "/no/such/folder/x", "--customers", "1", "--days", "1"], "cannot be written"),
        (["--out", "-", "--rate", "5"], "work with Kafka only"),
        (["--erased", "2"], "from 0 to 1"),
        (["--customers", "0"], "whole number from 1"),
        (["--start", "2017-01-01T05:00"], "no UTC midnight"),
    ],
)
def test_simulate_says_what_to_do(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", *options]) == 2
    assert said in capsys.readouterr().err
