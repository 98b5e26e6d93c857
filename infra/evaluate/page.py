"""The report as one HTML page: tables, bars with intervals and reliability diagrams, drawn as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from infra.evaluate.report import Curve, Estimate, EvaluationReport, between, number

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .15rem .7rem; border-bottom: 1px solid #ddd }
th { text-align: left } td.n { text-align: right; font-variant-numeric: tabular-nums }
.missed { color: #b00020; font-weight: 600 } .met { color: #1b6e20 } .meta { color: #666; font-size: 13px }
svg { margin: .5rem 1rem .5rem 0 } text { font: 12px system-ui, sans-serif; fill: #333 }
"""
_COLOURS: Final = {"ours": "#1f6feb", "floor": "#d98200", "control": "#8a8a8a", "": "#555555"}
_BAR_HEIGHT: Final = 22
_LABEL_WIDTH: Final = 330
_PLOT_WIDTH: Final = 420
_SIDE: Final = 260


def page(found: Sequence[EvaluationReport]) -> str:
    """All of it, self-contained."""
    body = "\n".join(line for one in found for line in _section(one))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>pulsegraph evaluation</title>'
        f"<style>{_STYLE}</style></head><body><h1>Evaluation</h1>\n{body}\n</body></html>\n"
    )


def _section(found: EvaluationReport) -> Iterator[str]:
    yield f"<h2>{escape(found.evaluation)}</h2>"
    models = "".join(f", {name} {version}" for name, version in found.models.items())
    said = f"{found.command}, {found.date}, {found.machine}, {found.seconds:.0f} s{models}"
    yield f'<p class="meta">{escape(said)}</p><p>{escape(found.data)}</p>'
    yield from _targets(found)
    for group in dict.fromkeys(row.group for row in found.results):
        rows = [row for row in found.results if row.group == group]
        yield f"<h3>{escape(group)}</h3>"
        for measure in dict.fromkeys(row.measure for row in rows if row.role != "difference"):
            shown = [row for row in rows if row.measure == measure and row.role != "difference"]
            if len(shown) > 1:
                yield bars(measure, shown)
        yield _table(rows)
    yield "".join(reliability(curve) for curve in found.curves)
    yield "".join(f"<p>{escape(note)}</p>" for note in found.notes)
    yield "".join(f"<p>Left out: {escape(line)}</p>" for line in found.left_out)
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    yield f'<p class="meta">{escape(versions)}</p>'


def _targets(found: EvaluationReport) -> Iterator[str]:
    if not found.targets:
        return
    yield "<table><tr><th>target</th><th>value</th><th>95 %</th><th>floor</th><th>wanted</th><th></th></tr>"
    for target in found.targets:
        floor = "" if target.floor is None else number(target.floor)
        said = "met" if target.met else "missed"
        yield (
            f'<tr><td>{escape(target.name)}</td><td class="n">{number(target.value)}</td>'
            f'<td class="n">{between(target.low, target.high)}</td><td class="n">{floor}</td>'
            f'<td class="n">{target.wanted}</td><td class="{said}">{said}</td></tr>'
        )
    yield "</table>"


def _table(rows: Sequence[Estimate]) -> str:
    head = "<table><tr><th>what</th><th></th><th>measure</th><th>value</th><th>95 %</th><th>rows</th><th>note</th></tr>"
    lines = [head]
    for row in rows:
        signed = row.role == "difference"
        lines.append(
            f"<tr><td>{escape(row.name)}</td><td>{escape(row.role)}</td><td>{escape(row.measure)}</td>"
            f'<td class="n">{number(row.value, signed=signed)}</td>'
            f'<td class="n">{between(row.low, row.high, signed=signed)}</td><td class="n">{row.rows:,}</td>'
            f"<td>{escape(row.note)}</td></tr>"
        )
    return "\n".join([*lines, "</table>"])


def bars(measure: str, rows: Sequence[Estimate]) -> str:
    """A point and its interval for every row, on one scale that need not begin at 0."""
    ends = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    least, most = min(ends), max(ends)
    room = (most - least) * 0.05 or 0.01
    least, most = least - room, most + room

    def x(value: float) -> float:
        return _LABEL_WIDTH + (value - least) / (most - least) * _PLOT_WIDTH

    height = _BAR_HEIGHT * len(rows) + 34
    parts = [
        f'<svg width="{_LABEL_WIDTH + _PLOT_WIDTH + 80}" height="{height}" role="img"><title>{escape(measure)}</title>'
    ]
    for place, row in enumerate(rows):
        y = 14 + place * _BAR_HEIGHT
        colour = _COLOURS.get(row.role, _COLOURS[""])
        parts.append(f'<text x="{_LABEL_WIDTH - 8}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>')
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                f'stroke-width="6" stroke-opacity=".35"/>'
            )
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{_LABEL_WIDTH + _PLOT_WIDTH + 8}" y="{y + 4}">{number(row.value)}</text>')
    base = 14 + len(rows) * _BAR_HEIGHT - 8
    parts.append(f'<line x1="{_LABEL_WIDTH}" x2="{_LABEL_WIDTH + _PLOT_WIDTH}" y1="{base}" y2="{base}" stroke="#999"/>')
    for share in (0.0, 0.5, 1.0):
        value = least + share * (most - least)
        parts.append(f'<text x="{x(value):.1f}" y="{base + 16}" text-anchor="middle">{value:.3f}</text>')
    parts.append(f'<text x="{_LABEL_WIDTH - 8}" y="{base + 16}" text-anchor="end">{escape(measure)}</text></svg>')
    return "".join(parts)


def reliability(curve: Curve) -> str:
    """Observed rate over predicted probability, with intervals and the diagonal that would be right."""
    most = max([0.05, *(max(one.predicted, one.high) for one in curve.bins)]) * 1.05
    edge, side = 38, _SIDE

    def x(value: float) -> float:
        return edge + value / most * (side - edge - 8)

    def y(value: float) -> float:
        return side - edge - value / most * (side - edge - 24)

    parts = [
        f'<svg width="{side}" height="{side}" role="img"><title>{escape(curve.name)}</title>',
        f'<text x="{side / 2}" y="14" text-anchor="middle">{escape(curve.name)}</text>',
        f'<line x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(most):.1f}" y2="{y(most):.1f}" stroke="#aaa" '
        'stroke-dasharray="4 3"/>',
        f'<line x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(most):.1f}" y2="{y(0):.1f}" stroke="#999"/>',
        f'<line x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(0):.1f}" y2="{y(most):.1f}" stroke="#999"/>',
        f'<text x="{x(most):.1f}" y="{y(0) + 15:.1f}" text-anchor="end">predicted, to {most:.2f}</text>',
        f'<text x="{x(0) - 4:.1f}" y="{y(0) + 15:.1f}" text-anchor="end">0</text>',
    ]
    for one in curve.bins:
        at = x(one.predicted)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(one.low):.1f}" y2="{y(one.high):.1f}" stroke="#1f6feb" '
            f'stroke-width="4" stroke-opacity=".35"/><circle cx="{at:.1f}" cy="{y(one.observed):.1f}" r="3.5" '
            f'fill="#1f6feb"/>'
        )
    return "".join([*parts, "</svg>"])
