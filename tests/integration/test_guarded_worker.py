"""A whole worker on a broker that demands a password over TLS: every client presents it, and nobody ever prints it."""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.guarded import USER, demanding_scram_over_tls
from support.pipeline import Pipeline
from support.small_model import save_small_version

from streams import cli
from streams.brokers.apache import ApacheBroker
from streams.brokers.processes import free_port
from streams.kafka.partitioning import partition_for
from streams.settings import schema as settings
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.apache, pytest.mark.slow, pytest.mark.timeout(240)]

RIGHT, WRONG = "fish-7Qx-right", "fish-7Qx-wrong"
EVENTS = 300
AT_ONCE_S = 20.0
"""For a command that loads what it needs first; a broker that is away is waited for 30 s."""


class Guarded(NamedTuple):
    kafka: ApacheBroker
    folder: Path

    def environment(self, password: str, ca: str = "ca") -> dict[str, str]:
        return {
            "PULSEGRAPH_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "PULSEGRAPH_KAFKA_PARTITIONS": "1",
            "PULSEGRAPH_SECURITY_PROTOCOL": "SASL_SSL",
            "PULSEGRAPH_SECURITY_MECHANISM": "SCRAM-SHA-512",
            "PULSEGRAPH_SECURITY_USERNAME": USER,
            "PULSEGRAPH_SECURITY_PASSWORD": password,
            "PULSEGRAPH_SECURITY_CA_FILE": str(self.folder / f"{ca}.pem"),
        }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("certificates")
    with demanding_scram_over_tls(RIGHT, folder) as kafka:
        yield Guarded(kafka, folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("model") / "model"
    save_small_version(directory, 1)
    return directory


def pipeline_with(guarded: Guarded, password: str, model: Path, folder: Path, **more: str) -> Pipeline:
    named = guarded.environment(password)
    pipeline = Pipeline(guarded.kafka.bootstrap, "", 1, model, folder, named | more)
    pipeline.client |= settings.kafka_client_config(settings.load(env=named))
    return pipeline


class Said(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def pulsegraph(
    guarded: Guarded, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command with a password, and an authority to trust, in the environment."""

    def run(password: str, *arguments: str, ca: str = "ca") -> Said:
        for name, value in (guarded.environment(password, ca) | {"PULSEGRAPH_MODEL_DIR": str(model)}).items():
            monkeypatch.setenv(name, value)
        code = cli.main(arguments)
        return Said(code, *capfd.readouterr())

    return run


#: Every command that speaks to a broker, with what it takes; ``worker`` runs on its own below.
COMMANDS: dict[str, list[str]] = {
    "topics": ["check"],
    "replay": ["--data", "simulation", "--customers", "5", "--to", "2017-01-03"],
    "simulate": ["--customers", "5", "--days", "1"],
    "tail": ["clickstream", "--from-beginning", "-n", "1"],
    "dead-letters": ["list"],
    "customer": ["c1"],
    "entity": ["item:1"],
    "state": ["dump"],
    "replay-to": ["PREDICTION_ID"],
    "sweep": ["--active-days", "7"],
    "skip-snapshots": [],
    "predict": ["--customer", "c1"],
    "publish": [],
}
#: Commands with settings that speak to none, and one that needs a seed first and has the clients of ``customer``.
SILENT = {"settings", "train", "audience"}


def test_every_command_is_here() -> None:
    with_settings = {name for name, parser in subcommands(cli.build_parser()).items() if takes_bootstrap(parser)}
    assert with_settings == COMMANDS.keys() | SILENT | {"worker"}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: found
        for action in parser._actions
        if isinstance(action.choices, dict)
        for name, found in action.choices.items()
    }


def takes_bootstrap(parser: argparse.ArgumentParser) -> bool:
    return "--bootstrap" in parser._option_string_actions or any(map(takes_bootstrap, subcommands(parser).values()))


def test_a_worker_and_every_command_get_in_with_the_password(
    guarded: Guarded, model: Path, tmp_path: Path, pulsegraph: Run
) -> None:
    port = str(free_port())
    pipeline = pipeline_with(guarded, RIGHT, model, tmp_path, PULSEGRAPH_METRICS_PORT=port)
    assert pulsegraph(RIGHT, "topics", "create").code == 0
    producer = OrderedProducer(guarded.kafka.bootstrap, config=pipeline.client)
    now_ms = int(time.time() * 1000)
    for number in range(EVENTS):
        body = {"event": "purchase", "event_ts_ms": now_ms + number, "item_id": str(number % 40)}
        key = b"c%d" % (number % 20)
        value = b"{" if number == 7 else json.dumps(body).encode()
        producer.send("clickstream", key, value, partition_for(key, 1))
    producer.deliver()
    try:
        pipeline.start_worker()
        pipeline.await_taken(EVENTS)
        pipeline.await_drained(90.0)
        predictions = pipeline.predictions("predictions.churn")
        assert len({found["customer_id"] for found in predictions.values()}) == 20
        # The lag thread has a client of its own.
        deadline = time.monotonic() + 30
        while 'pulsegraph_lag_records{partition="0",role="ingest",topic="clickstream"} 0.0' not in scraped(port):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        # Another disk: the restore reads the changelog.
        pipeline.stop()
        pipeline.start_worker("w1", roles="ingest")
        wanted = r'pulsegraph_restored_records_total\{role="ingest"\} (\d+)'
        while not (found := re.search(wanted, scraped(port))) or int(found[1]) < 20:
            assert time.monotonic() < deadline + 60
            time.sleep(0.5)
        replayed = pulsegraph(RIGHT, "dead-letters", "replay", "clickstream-0-7")
        assert "1  sent to clickstream" in replayed.out, replayed.err
        pipeline.await_taken(EVENTS + 1)
    finally:
        pipeline.stop()
    assert RIGHT not in "".join(path.read_text() for path in tmp_path.glob("*.log"))
    expected = {
        "topics": "are correct",
        "tail": '"event":"purchase"',
        "dead-letters": "clickstream-0-7",
        "customer": "c1",
        "entity": "item:1",
        "state": '"id":"c1"',
        "replay-to": "the same, byte for byte",
        "sweep": "was ordered of 1 partition",
        "skip-snapshots": "encode begins behind",
        "predict": "churn, ",
        "publish": "was announced to every encode worker",
        "replay": "all acknowledged",
        "simulate": "all acknowledged",
    }
    assert expected.keys() == COMMANDS.keys()
    for command, part in expected.items():
        options = [next(iter(predictions)) if word == "PREDICTION_ID" else word for word in COMMANDS[command]]
        said = pulsegraph(RIGHT, command, *options)
        assert said.code == 0, (command, said.err)
        assert part in said.out, command
        assert RIGHT not in said.out + said.err, command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_a_wrong_password_says_so_at_once(command: str, pulsegraph: Run) -> None:
    began = time.monotonic()
    said = pulsegraph(WRONG, command, *COMMANDS[command])
    assert time.monotonic() - began < AT_ONCE_S
    assert said.code == 2
    assert "refused the login" in said.err and "PULSEGRAPH_SECURITY_PASSWORD" in said.err
    assert WRONG not in said.out + said.err


def test_a_certificate_of_another_authority_is_refused(pulsegraph: Run) -> None:
    began = time.monotonic()
    said = pulsegraph(RIGHT, "topics", "check", ca="other")
    assert time.monotonic() - began < AT_ONCE_S
    assert said.code == 2
    assert "no TLS connection" in said.err and "check PULSEGRAPH_SECURITY_CA_FILE" in said.err


def scraped(port: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_a_worker_with_a_wrong_password_stops_at_once_and_does_not_say_it(
    guarded: Guarded, model: Path, tmp_path: Path
) -> None:
    pipeline = pipeline_with(guarded, WRONG, model, tmp_path)
    worker = pipeline.start_worker()
    try:
        assert worker.wait(AT_ONCE_S + 10) == 2
    finally:
        pipeline.stop()
    log = pipeline.log().read_text()
    assert WRONG not in log
    assert "PULSEGRAPH_SECURITY_PASSWORD" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("options", [[], ["--changed"], ["--toml"]])
def test_settings_are_shown_without_it(options: list[str], pulsegraph: Run) -> None:
    said = pulsegraph(RIGHT, "settings", *options)
    assert said.code == 0
    assert RIGHT not in said.out + said.err
    assert options or "PULSEGRAPH_SECURITY_PASSWORD=***" in said.out
