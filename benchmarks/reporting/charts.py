"""Draws charts: one per group of drawings, as SVG for the page and as PNG."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

from benchmarks.figures import Bars, Curve, Distribution, Drawing
from benchmarks.histograms import percentiles, read
from benchmarks.reporting.record import Record
from benchmarks.reporting.style import FAINT, INK, fixed_ticks, look, new_sheet, plain_ticks, styled
from benchmarks.reporting.table import number

_MILLI = 1000.0
_DPI = 160
_HEIGHT = 4.3  # inches, of a chart of lines
_ROOM_FOR_TITLE, _ROW = 1.0, 0.25  # inches, of a chart of bars: at its ends, for each bar
_WIDE_RANGE = 20  # from here on, waits are drawn on a logarithmic axis
_NINES = 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999

Kind = TypeVar("Kind", Distribution, Curve, Bars)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, drawn. `name` can be a file's; `svg` is an element for a page, its ids its own."""

    name: str
    title: str
    svg: str
    png: bytes


def charts(record: Record) -> list[Chart]:
    """Draw the groups of a record's drawings in the order in which they came.

    Raises:
        ValueError: a group mixes kinds.
    """
    groups: dict[str, dict[str, Drawing]] = {}
    for name, drawing in record.drawings.items():
        group, _, line = name.partition(".")
        groups.setdefault(group, {})[line.replace("_", " ")] = drawing
    return [_chart(f"{record.scenario}-{group}", members) for group, members in groups.items()]


def _chart(name: str, members: Mapping[str, Drawing]) -> Chart:
    first = next(iter(members.values()))
    with styled():
        sheet = (
            _of_kind(Distribution, _waits, members)
            or _of_kind(Curve, _lines, members)
            or _of_kind(Bars, _bars, members)
        )
        if sheet is None:
            raise ValueError(f"{name}: a chart of several kinds of drawings")
        return Chart(re.sub(r"[^a-z0-9-]+", "-", name.lower()), first.title, _svg(sheet, name), _png(sheet))


def _of_kind(
    kind: type[Kind], draw: Callable[[Mapping[str, Kind]], Sheet], members: Mapping[str, Drawing]
) -> Sheet | None:
    own = {line: each for line, each in members.items() if isinstance(each, kind)}
    return draw(own) if len(own) == len(members) else None


def _waits(members: Mapping[str, Distribution]) -> Sheet:
    """Draw percentiles the HDR way: each nine more takes as much room as the one before, so that the tail is seen."""
    sheet, axes = new_sheet(_HEIGHT, next(iter(members.values())).title)
    counts = {line: read(each).get_total_count() for line, each in members.items()}
    least, most = np.inf, 0.0
    for place, (line, each) in enumerate(members.items()):
        beyond = np.geomspace(1, max(counts[line], 2), 400)  # 1 / (1 - rank), up to the one slowest call
        waits = _MILLI * percentiles(each, 100 * (1 - 1 / beyond))
        least, most = min(least, waits.min()), max(most, waits.max())
        own = look(place)
        marks = [int(np.searchsorted(beyond, 1 / (1 - nine))) for nine in _NINES if 1 / (1 - nine) <= counts[line]]
        axes.plot(beyond, waits, ls=own.line, color=own.colour, marker=own.marker, markevery=marks, label=line)
    axes.set_xscale("log")
    axes.set_yscale("log" if most > _WIDE_RANGE * least else "linear")
    shown = [nine for nine in _NINES if 1 / (1 - nine) <= max(counts.values()) * 1.01] or [_NINES[0]]
    fixed_ticks(axes.xaxis, [1.0, *(1 / (1 - nine) for nine in shown)], ["0", *(f"{100 * nine:.7g}" for nine in shown)])
    axes.set_xlabel("percentile / %")
    axes.set_ylabel("latency / ms")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    plain_ticks(axes.yaxis, log=axes.get_yscale() == "log")
    _legend(axes, members)
    return sheet


def _lines(members: Mapping[str, Curve]) -> Sheet:
    first = next(iter(members.values()))
    sheet, axes = new_sheet(_HEIGHT, first.title)
    for place, (line, curve) in enumerate(members.items()):
        own = look(place)
        axes.plot(curve.x, curve.y, ls=own.line, color=own.colour, marker=own.marker, label=line)
        if curve.lo is not None and curve.hi is not None:
            axes.fill_between(curve.x, curve.lo, curve.hi, color=own.colour, alpha=0.15, linewidth=0)
    for axis, log, view in (
        (axes.xaxis, "x" in first.log, axes.set_xscale),
        (axes.yaxis, "y" in first.log, axes.set_yscale),
    ):
        view("log" if log else "linear")
        plain_ticks(axis, log=log)
    if "y" not in first.log:
        axes.set_ylim(bottom=min(0.0, *(min(curve.y) for curve in members.values())))
    axes.set_xlabel(first.x_label)
    axes.set_ylabel(first.y_label)
    _legend(axes, members)
    return sheet


def _bars(members: Mapping[str, Bars]) -> Sheet:
    """Draw bars from zero; on a logarithmic axis, which has no zero, points."""
    first = next(iter(members.values()))
    names = list(dict.fromkeys(name for each in members.values() for name in each.names))
    rows = len(names) * (len(members) + 0.8)
    lowest = min(value for each in members.values() for value in each.values)
    sheet, axes = new_sheet(_ROOM_FOR_TITLE + _ROW * rows, first.title)
    for place, (line, each) in enumerate(members.items()):
        own = look(place)
        spots = np.array([names.index(name) * (len(members) + 0.8) + place for name in each.names])
        if first.log:
            axes.hlines(spots, lowest / 2, each.values, color=FAINT, lw=1.0, zorder=1)
            axes.plot(each.values, spots, ls="", color=own.colour, marker=own.marker, ms=7, label=line)
        else:
            axes.barh(
                spots, each.values, 0.8, label=line, facecolor="white" if own.hatch else own.colour,
                edgecolor=own.colour, hatch=own.hatch,
            )  # fmt: skip
        if each.lo is not None and each.hi is not None:
            axes.hlines(spots, each.lo, each.hi, color=INK, lw=1.0)
        ends = each.hi or each.values
        for spot, value, end in zip(spots, each.values, ends, strict=True):
            axes.annotate(
                number(value), (end, spot), (7, 0), textcoords="offset points", va="center", fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},  # no grid line runs through it
            )  # fmt: skip
    axes.set_xscale("log" if first.log else "linear")
    axes.margins(x=0.12)
    axes.set_xlim(left=lowest / 2 if first.log else min(0.0, lowest))
    plain_ticks(axes.xaxis, log=first.log)
    middles = [place * (len(members) + 0.8) + (len(members) - 1) / 2 for place in range(len(names))]
    fixed_ticks(axes.yaxis, middles, names)
    axes.set_ylim(rows - 0.8 + 0.2, -0.9)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(first.label)
    _legend(axes, members)
    return sheet


def _legend(axes: Axes, members: Mapping[str, object]) -> None:
    """Name the members beside the chart, where no line can run through the names; one alone needs no name."""
    if len(members) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def _svg(sheet: Sheet, name: str) -> str:
    """Give the element alone, its ids apart from those of the page's other charts."""
    file = io.StringIO()
    sheet.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    own = re.sub(r"\W+", "-", name)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", text)


def _png(sheet: Sheet) -> bytes:
    file = io.BytesIO()
    sheet.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()
