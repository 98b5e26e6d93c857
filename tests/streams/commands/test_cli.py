"""The command line: help for strangers, one line per error, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import ConfigError, DiskFailed, PulsegraphError
from streams import cli
from streams.settings.schema import Settings, load
from streams.state.folder_lock import FolderLock
from streams.worker import Worker


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
    monkeypatch.setenv("PULSEGRAPH_INGEST_CHECKPOINT_MS", "soon")
    assert cli.main(["settings"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pulsegraph settings: PULSEGRAPH_INGEST_CHECKPOINT_MS='soon'")
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
    monkeypatch.setenv("PULSEGRAPH_INGEST_CHECKPOINT_MS", "250")
    assert cli.main(["settings", "--changed"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "PULSEGRAPH_INGEST_CHECKPOINT_MS=250  (default 50)"
    assert cli.main(["settings", "--toml"]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["ingest"]["checkpoint_ms"] == 250
    file = tmp_path / "p.toml"
    file.write_text(text.replace("checkpoint_ms = 250", "checkpoint_ms = 50"))
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


@pytest.mark.broker
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


PULSEGRAPH = (sys.executable, "-m", "streams.cli")


@pytest.fixture
def own_signals() -> Iterator[None]:
    """`broker` takes signals for itself."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "argv",
    [
        ["customer", "\udcff"],
        ["entity", "item:\udcff"],
        ["tail", "clickstream", "--customer", "\udcff"],
        ["replay-to", "1", "--customer", "\udcff"],
    ],
)
def test_ids_that_are_no_text_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert r"\xff' is not UTF-8" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("argv", [["settings"], ["settings", "--toml"], ["simulate", "--customers", "3", "--out", "-"]])
def test_output_that_nobody_takes(argv: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PULSEGRAPH, *argv], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == f"pulsegraph {argv[0]}: output cannot be written: No space left on device\n"
    done = subprocess.run(["/bin/sh", "-c", '"$@" >&-', "sh", *PULSEGRAPH, *argv], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("pulsegraph: output cannot be written: stdout is closed")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["settings"], ["settings", "--toml"], ["simulate", "--customers", "30", "--out", "-"]]
)
def test_a_reader_that_goes_ends_every_command_alike(argv: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*PULSEGRAPH, *argv], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (cli.EXIT_PIPE, "")


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["simulate", "--seed", "-1"], "whole number from 0"),
        (["replay", "--seed", "-1"], "whole number from 0"),
        (["simulate", "--customers", "99999999999"], "whole number from 1 to 10000000"),
        (["simulate", "--days", "0"], "whole number from 1"),
        (["train", "--budget", "nan"], "seconds above 0"),
        (["bench", "delivery", "--scale", "nan"], "give a share above 0"),
        (["bench", "delivery", "--rounds", "0"], "whole number from 1"),
        (["bench", "delivery", "--folder", __file__], "give another one"),
        (["topics", "create", "--partitions", "1000000"], "clients take 100000 at most"),
        (["topics", "create", "--replicas", "100000"], "clients take 10000 at most"),
        pytest.param(
            *(["broker", "--port", "0", "--log", "/no/dir/x"], "log /no/dir/x cannot be written"),
            marks=pytest.mark.broker,
        ),
        (["demo", "--cache", __file__], "give another one"),
        (["faults", "--workers", "5"], "whole number from 1 to 4"),
        (["faults", "--partitions", "0"], "whole number from 1"),
        (["faults", "--events", "0"], "whole number from 1"),
        (["faults", "--erased", "7"], "share from 0 to 1"),
        (["worker", "--roles", "ingest,ingest"], "ingest given twice"),
        *(
            ([command, "--rate", rate], "events per second above 0")
            for command in ("replay", "simulate", "demo")
            for rate in ("nan", "inf", "0", "-1", "fast")
        ),
    ],
)
def test_numbers_and_places_that_cannot_be(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith(f"pulsegraph {argv[0]}")
    assert message.count("\n") == 1


def test_faults_leave_the_folder_of_an_earlier_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code").mkdir()
    assert cli.main(["faults", "--folder", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "holds files, of an earlier run perhaps" in message
    assert message.count("\n") == 1


@pytest.mark.broker
@pytest.mark.usefixtures("own_signals")
def test_a_broker_that_ends_by_itself_leaves_its_last_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from streams.brokers.embedded import EmbeddedBroker

    started = EmbeddedBroker.start

    def dying(self: EmbeddedBroker) -> None:
        started(self)
        with self.log_path.open("a") as log:
            log.write("the last thing it said\n")
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(EmbeddedBroker, "start", dying)
    assert cli.main(["broker", "--port", "0"]) == 2
    assert "ended by itself; its last log lines: " in (said := capsys.readouterr().err)
    assert "the last thing it said" in said


def test_one_worker_to_a_folder(tmp_path: Path, broker, topics_prefix: str) -> None:
    settings = load(env={"PULSEGRAPH_STATE_DIR": str(tmp_path), "PULSEGRAPH_KAFKA_PREFIX": topics_prefix})
    lock = FolderLock(tmp_path / "entities")
    with pytest.raises(ConfigError, match=r"entities is in use by another worker: give this one its own"):
        Worker(settings, ["entities"])
    lock.release()
    lock.release()
    kafka = {"PULSEGRAPH_KAFKA_BOOTSTRAP": broker.bootstrap, "PULSEGRAPH_KAFKA_PREFIX": topics_prefix}
    settings = load(env=kafka | {"PULSEGRAPH_STATE_DIR": str(tmp_path)})
    for _ in range(2):  # one that cannot begin lets the folder go
        with pytest.raises(PulsegraphError, match="topics create"):
            Worker(settings, ["ingest", "entities"])


def test_a_killed_worker_lets_its_folder_go(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from streams.state.folder_lock import FolderLock; "
    code += "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="in use by another worker"):
            FolderLock(tmp_path)
        holder.kill()
    FolderLock(tmp_path).release()
    with pytest.raises(DiskFailed, match="cannot be created"):
        FolderLock(tmp_path / ".lock")
