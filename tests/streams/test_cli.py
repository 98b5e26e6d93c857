"""The command line: help for strangers, one line per error, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tomllib

import pytest

from schemas.errors import PulsegraphError
from streams import cli
from streams.settings import Settings, load


def _parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found[name] = child
                found |= {f"{name} {inner}": deeper for inner, deeper in _parsers(child).items()}
    return found


PARSERS = _parsers(cli.build_parser())


@pytest.mark.parametrize("name", PARSERS)
def test_help_has_a_summary_and_an_example(name: str) -> None:
    parser = PARSERS[name]
    assert parser.description
    assert parser.epilog
    assert f"pulsegraph {name.split()[0]}" in parser.epilog
    assert parser.format_help()
    undocumented = [action.dest for action in parser._actions if not action.help and action.dest != "action"]
    assert undocumented == []


@pytest.mark.parametrize("name", PARSERS)
def test_examples_parse(name: str) -> None:
    for line in (PARSERS[name].epilog or "").splitlines():
        words = line.split(">")[0].split()
        if "pulsegraph" in words:
            cli.build_parser().parse_args(words[words.index("pulsegraph") + 1 :])


def test_heavy_modules_are_loaded_only_when_needed() -> None:
    code = "import sys, streams.cli; streams.cli.build_parser(); print([m for m in "
    code += "('torch', 'faust', 'transformers', 'numpy', 'confluent_kafka', 'aiokafka', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSEGRAPH_INGEST_EPOCH_MS", "soon")
    assert cli.main(["settings"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pulsegraph settings: PULSEGRAPH_INGEST_EPOCH_MS='soon'")
    assert captured.err.count("\n") == 1
    assert cli.main(["--debug", "settings"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert cli.main(["settings", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(PulsegraphError("no"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    class Failing:
        @staticmethod
        def add(subparsers: argparse._SubParsersAction) -> None:
            subparsers.add_parser("fail").set_defaults(run=fail)

        run = staticmethod(fail)

    monkeypatch.setattr(cli, "COMMANDS", (Failing,))
    assert cli.main(["fail"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("pulsegraph ")


def test_settings_are_listed_and_written_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("PULSEGRAPH_INGEST_EPOCH_MS", "250")
    assert cli.main(["settings", "--changed"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "PULSEGRAPH_INGEST_EPOCH_MS=250  (default 50)"
    assert cli.main(["settings", "--toml"]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["ingest"]["epoch_ms"] == 250
    file = tmp_path / "p.toml"
    file.write_text(text.replace("epoch_ms = 250", "epoch_ms = 50"))
    assert load(file, env={}) == Settings()


def test_topics_on_a_broker(broker, topics_prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bootstrap", broker.bootstrap, "--prefix", topics_prefix]
    assert cli.main(["topics", "check", *options]) == 2
    assert "pulsegraph topics create" in capsys.readouterr().err
    assert cli.main(["topics", "create", "--partitions", "3", *options]) == 0
    assert "with 3 partitions" in capsys.readouterr().out
    assert cli.main(["topics", "check", "--partitions", "3", *options]) == 0
    assert cli.main(["topics", "check", "--partitions", "5", *options]) == 2
    assert "PULSEGRAPH_KAFKA_PARTITIONS=3" in capsys.readouterr().err
    assert cli.main(["topics", "list", *options]) == 0
    assert f"{topics_prefix}predictions.churn" in capsys.readouterr().out
    assert cli.main(["topics", "delete", *options]) == 2
    assert "repeat it with --yes" in capsys.readouterr().err
    assert cli.main(["topics", "delete", "--yes", *options]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_broker_runs_until_a_signal(number: signal.Signals, code: int) -> None:
    argv = [sys.executable, "-m", "streams.cli", "broker", "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline().startswith("127.0.0.1:")
            process.send_signal(number)
            assert process.wait(60) == code
            assert "Traceback" not in process.stderr.read()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def test_broker_options_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["broker", "--nodes", "3"]) == 2
    assert "need --apache" in capsys.readouterr().err
    assert cli.main(["broker", "--port", "70000"]) == 2
    assert "from 0 to 65535" in capsys.readouterr().err
