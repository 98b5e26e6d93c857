"""What a benchmark says: measurements, targets, and where they were taken."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct, field, structs

Say = Callable[[str], None]
"""Called with what is being done, for stderr."""

_PACKAGES: Final = ("faust-streaming", "aiokafka", "confluent-kafka", "rocksdict", "msgspec", "torch", "transformers")


class Options(Struct, frozen=True, kw_only=True):
    """What the command line says to a bench."""

    rounds: int = 3
    """Turns of every contender; an odd number has a median that was measured."""
    scale: float = 1.0
    """Share of the bench's own numbers of events and customers: 0.02 shows in a minute that it works."""
    broker: Literal["apache", "embedded"] = "apache"
    device: Literal["cpu", "cuda"] = "cpu"
    """Of ``bench encode``; the others have no use for it."""
    folder: Path = Path(".cache/bench")
    """For the brokers' data, local state and what peers need; kept between runs."""

    def scaled(self, number: int, least: int = 1) -> int:
        """``number`` times ``scale``."""
        return max(least, round(number * self.scale))


class Measured(Struct, frozen=True, kw_only=True):
    """One contender's values over the rounds."""

    name: str
    unit: str
    values: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Target(Struct, frozen=True, kw_only=True):
    """A number to reach. ``target`` is the least that will do, or the most where ``at_most``."""

    name: str
    value: float
    target: float
    at_most: bool = False
    met: bool = field(default=False)

    def __post_init__(self) -> None:
        met = self.value <= self.target if self.at_most else self.value >= self.target
        if met != self.met:
            # The only field that follows from others; frozen structs are set once, here.
            structs.force_setattr(self, "met", met)


class Findings(Struct, frozen=True, kw_only=True):
    """What a bench found."""

    results: list[Measured]
    targets: list[Target] = []
    broker: str = ""
    versions: dict[str, str] = {}
    """Of what only this bench uses, e.g. the peers."""
    left_out: list[str] = []
    """What a reader would expect and this run did not measure, with the reason."""


class BenchReport(Struct, frozen=True, kw_only=True):
    """Findings with what is needed to take them again. One line of JSON."""

    bench: str
    results: list[Measured]
    targets: list[Target]
    command: str
    date: str
    machine: str
    broker: str
    versions: dict[str, str]
    left_out: list[str]
    seconds: float


def report(name: str, findings: Findings, *, command: str, date: str, seconds: float) -> BenchReport:
    """Findings with machine, versions and command."""
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return BenchReport(
        bench=name,
        results=findings.results,
        targets=findings.targets,
        command=command,
        date=date,
        machine=machine(),
        broker=findings.broker,
        versions={"python": platform.python_version()} | versions | findings.versions,
        left_out=findings.left_out,
        seconds=round(seconds, 1),
    )


def machine() -> str:
    """The machine in words: cores, processor, memory."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def take_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int, say: Say, *, unit: str
) -> dict[str, list[float]]:
    """Run every contender once a round; every other round in the other order.

    Args:
        contenders: name -> a run that returns its figure.
        rounds: how often.
        say: called with every figure.
        unit: of the figures.

    Example:
        >>> take_turns({"a": lambda: 1.0, "b": lambda: 2.0}, 2, lambda text: None, unit="events/s")
        {'a': [1.0, 1.0], 'b': [2.0, 2.0]}
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            value = contenders[name]()
            values[name].append(value)
            say(f"round {number + 1} of {rounds}: {name}: {figure(value)} {unit}")
    return values


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Ratio of medians."""
    return statistics.median(ours) / statistics.median(theirs)


def figure(value: float) -> str:
    """A number with three digits that count.

    Example:
        >>> figure(123456.7), figure(12.34), figure(0.1234)
        ('123,457', '12.3', '0.123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(found: BenchReport) -> Iterator[str]:
    """The report for people, as Markdown."""
    yield f"### {found.bench}"
    yield ""
    yield f"`{found.command}`, {found.date}, {found.machine}, {found.broker or 'no broker'}, {found.seconds:.0f} s"
    yield ""
    yield "| what | median | lowest | highest | unit | note |"
    yield "|---|---|---|---|---|---|"
    for row in found.results:
        spread = f"{figure(row.median)} | {figure(min(row.values))} | {figure(max(row.values))}"
        yield f"| {row.name} | {spread} | {row.unit} | {row.note} |"
    if found.targets:
        yield ""
        yield "| target | value | wanted | |"
        yield "|---|---|---|---|"
        for target in found.targets:
            bound = f"{'≤' if target.at_most else '≥'} {figure(target.target)}"
            yield f"| {target.name} | {figure(target.value)} | {bound} | {'met' if target.met else '**missed**'} |"
    for line in found.left_out:
        yield ""
        yield f"Left out: {line}"
    yield ""
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in found.versions.items())}."
    yield ""


def now() -> str:
    """Today, for a report."""
    return time.strftime("%Y-%m-%d")
