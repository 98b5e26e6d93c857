"""The built wheel in an environment of its own: what is in it, and that it works without the checkout."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from support.small_model import save_small_model

from models.native_library import LEVELS, compiler
from streams import cli
from streams.brokers.processes import Child, free_port, tail_of, worker_environment

ROOT = Path(__file__).parent.parent
PRODUCT = ("schemas", "models", "streams")
#: Of the repository, and not of the product.
TOOLS = ("infra", "tests", "docs")
PACKAGE_DATA = {"models/encoder.c", "streams/brokers/pom.xml"}
#: Role -> the metric that says that it does what it is there for.
WORK = {
    "ingest": r'pulsegraph_events_total\{outcome="applied",role="ingest"',
    "encode": r'pulsegraph_predictions_total\{topic="predictions.churn"',
    "entities": r'pulsegraph_events_total\{outcome="applied",role="entities"',
    "learn": r'pulsegraph_live_auc_pairs\{head="churn"',
}
START_S = 120.0
COMPILES = compiler() is not None and platform.machine() == "x86_64"

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.timeout(300)]


class Installed:
    """A virtual environment that holds our wheel, and sees the dependencies of the one that runs the tests."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.folder = folder
        self.cwd = folder / "empty"
        venv.create(folder, symlinks=True)
        self.cwd.mkdir()
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
        _run([*pip, "install", "--no-deps", "--no-index", str(wheel)], folder)
        (packages,) = folder.glob("lib/python*/site-packages")
        # A folder named in a .pth file is searched, but its own .pth files are not read: an editable install stays out.
        dependencies = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
        # The embedded broker's rebalances wait for half the session timeout.
        inherited = worker_environment({"kafka.session_timeout_ms": 6_000})
        self.env = {name: value for name, value in inherited.items() if not name.startswith("PYTHON")}
        if "PULSEGRAPH_CACHE" in os.environ:
            self.env["PULSEGRAPH_CACHE"] = os.environ["PULSEGRAPH_CACHE"]

    def run(self, *argv: str, **env: str) -> str:
        """A command of this environment, by name; its stdout."""
        return _run([str(self.folder / "bin" / argv[0]), *argv[1:]], self.cwd, self.env | env)

    def start(self, log: Path, *argv: str) -> Child:
        return Child([str(self.folder / "bin" / argv[0]), *argv[1:]], log, env=self.env, cwd=self.cwd)


def _run(argv: list[str], cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves folders beside what it builds
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in (*PRODUCT, *TOOLS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return build_wheel(source, folder)


def build_wheel(source: Path, folder: Path, env: dict[str, str] | None = None) -> Path:
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    _run([sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(folder), str(source)], folder, env)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def _held(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def _modules() -> set[str]:
    return {str(path.relative_to(ROOT)) for name in PRODUCT for path in (ROOT / name).rglob("*.py")}


def test_it_holds_the_product_whole_and_nothing_else(wheel: Path) -> None:
    libraries = {f"models/{level.file}" for level in LEVELS} if COMPILES else set()
    assert _held(wheel) == _modules() | PACKAGE_DATA | libraries
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl" if COMPILES else "-py3-none-any.whl")


def test_without_a_compiler_it_is_for_every_machine(wheel: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(wheel.parent / "source", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    built = build_wheel(source, tmp_path, os.environ | {"PATH": str(tmp_path)})
    assert built.name.endswith("-py3-none-any.whl")
    assert _held(built) == _modules() | PACKAGE_DATA


@pytest.mark.parametrize("compiler_there", [True, False])
def test_an_editable_install_compiles_nothing(wheel: Path, compiler_there: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(wheel.parent / "source", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    code = f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})"
    path = os.environ["PATH"] if compiler_there else str(tmp_path)
    _run([sys.executable, "-c", code], source, os.environ | {"PATH": path})
    (built,) = tmp_path.glob("*.whl")
    assert not [name for name in _held(built) if name.endswith(".so")]
    assert not list(source.rglob("*.so")), "a stale one would serve for an encoder that has changed"


@pytest.mark.skipif(not COMPILES, reason="there is no compiler, or no library for this kind of processor")
def test_its_encoder_runs_where_there_is_no_compiler(installed: Installed) -> None:
    code = "from models.native_library import load_library; print(load_library('float32').origin)"
    assert installed.run("python", "-c", code, PATH=str(installed.cwd)).strip().endswith(", packaged")


def test_it_is_what_is_imported(installed: Installed) -> None:
    code = f"import importlib, json, sys; files = [importlib.import_module(name).__file__ for name in {PRODUCT}]; "
    code += "from streams.brokers.apache import POM; "
    code += "print(json.dumps([[*files, str(POM)], sys.path, sorted(sys.modules)]))"
    files, path, modules = json.loads(installed.run("python", "-c", code))
    packages = installed.folder / "lib"
    assert [file for file in files if not Path(file).is_relative_to(packages) or not Path(file).is_file()] == []
    assert str(ROOT) not in path
    assert [name for name in modules if name.startswith("__editable__")] == []


def test_every_command_that_it_lists_works_there(installed: Installed) -> None:
    listed = re.findall(r"^ {4}([a-z][a-z-]*)(?: |$)", installed.run("pulsegraph", "--help"), re.MULTILINE)
    assert len(listed) == len(cli.COMMANDS) and not {"bench", "faults"} & set(listed)
    for command in listed:
        assert f"pulsegraph {command}" in installed.run("pulsegraph", command, "--help").splitlines()[0]
    assert installed.run("pulsegraph", "--version") == installed.run(
        "python", "-c", "from importlib.metadata import version; print('pulsegraph', version('pulsegraph'))"
    )


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.apache)])
def bootstrap(request: pytest.FixtureRequest, installed: Installed, tmp_path: Path) -> Iterator[str]:
    """Where a broker answers that ``pulsegraph broker`` started."""
    log = tmp_path / "broker.log"
    options = ["--apache"] if request.param == "apache" else []
    broker = installed.start(log, "pulsegraph", "broker", "--port", "0", *options)
    try:
        _wait(lambda: "broker ready" in log.read_text(), broker, log)
        yield log.read_text().splitlines()[0]
        broker.stop(timeout_s=30)
        assert broker.returncode == 0, tail_of(log)
    finally:
        broker.kill()


def test_broker_topics_and_worker(installed: Installed, bootstrap: str, tmp_path: Path) -> None:
    where = ["--bootstrap", bootstrap]
    assert "all are there" in installed.run("pulsegraph", "topics", "create", *where)
    installed.run("pulsegraph", "simulate", "--customers", "5", "--days", "90", *where)
    port, log = free_port(), tmp_path / "worker.log"
    folders = ["--model", str(save_small_model(tmp_path / "model")), "--state-dir", str(tmp_path / "state")]
    options = ["--roles", ",".join(WORK), "--metrics-port", str(port), *folders, *where]
    worker = installed.start(log, "pulsegraph", "worker", *options)
    try:
        _wait(lambda: working(port) == WORK.keys(), worker, log)
        worker.stop(timeout_s=30)
        assert worker.returncode == 0, tail_of(log)
    finally:
        worker.kill()


def working(port: int) -> set[str]:
    """The roles whose work shows in a worker's metrics."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            samples = re.findall(r"^(pulsegraph_\w+\{.*\}) (\S+)$", answer.read().decode(), re.MULTILINE)
    except OSError:
        return set()  # not there yet
    told = [sample for sample, value in samples if float(value) > 0]
    return {role for role, sign in WORK.items() if any(re.match(sign, sample) for sample in told)}


def _wait(condition: Callable[[], bool], child: Child, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert child.running, tail_of(log)
        assert time.monotonic() < deadline, tail_of(log)
        time.sleep(0.05)
