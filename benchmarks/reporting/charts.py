"""Draws charts: one per group of drawings, as SVG for the page and as PNG."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from numpy.typing import NDArray

from benchmarks.figures import Bars, Curve, Distribution, Drawing, Figure
from benchmarks.histograms import percentiles, read
from benchmarks.reporting.record import Record
from benchmarks.reporting.style import FAINT, INK, Look, fixed_ticks, legend, look, new_sheet, plain_ticks, styled
from benchmarks.reporting.table import number

_MILLI = 1000.0
_DPI = 160
_HEIGHT = 3.1  # inches, of a chart of lines
_ROOM_FOR_TITLE, _ROW = 1.0, 0.25  # inches, of a chart of bars: at its ends, for each bar
_OURS = "octavo", "default"  # bars of Octavo as it is served
_MOST = 50.0  # percent of a text that a reader left unread
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
    """Draw the groups of a record's drawings: bars first, then curves, then distributions, each as they came.

    Raises:
        ValueError: a group mixes kinds.
    """
    groups: dict[str, dict[str, Drawing]] = {}
    for name, drawing in record.drawings.items():
        group, _, line = name.partition(".")
        groups.setdefault(group, {})[line] = drawing
    names = _Names(_unread(record))
    kinds = (Bars, Curve, Distribution)
    ordered = sorted(groups.items(), key=lambda group: kinds.index(type(next(iter(group[1].values())))))
    return [_chart(f"{record.scenario}-{group}", members, names) for group, members in ordered]


@dataclass(frozen=True, slots=True)
class _Names:
    """Labels of lines and bars. `unread` is the share of the text that each peer did not read, in percent."""

    unread: Mapping[str, float]

    def label(self, name: str, separator: str = ", ") -> str:
        """Write a name for readers, with what it left unread if that is most."""
        plain = name.replace("_", " ")
        return f"{plain}{separator}{self.unread[name]:.0f} % unread" if self.skims(name) else plain

    def skims(self, name: str) -> bool:
        """Whether it left most of the text unread."""
        return self.unread.get(name, 0.0) > _MOST


def _unread(record: Record) -> dict[str, float]:
    found = {name.removeprefix("unread."): each for name, each in record.readings.items() if name.startswith("unread.")}
    return {name: each.value for name, each in found.items() if isinstance(each, Figure)}


def _chart(name: str, members: Mapping[str, Drawing], names: _Names) -> Chart:
    first = next(iter(members.values()))
    with styled():
        sheet = (
            _of_kind(Distribution, _waits, members, names)
            or _of_kind(Curve, _lines, members, names)
            or _of_kind(Bars, _bars, members, names)
        )
        if sheet is None:
            raise ValueError(f"{name}: a chart of several kinds of drawings")
        return Chart(re.sub(r"[^a-z0-9-]+", "-", name.lower()), first.title, _svg(sheet, name), _png(sheet))


def _of_kind(
    kind: type[Kind],
    draw: Callable[[Mapping[str, Kind], _Names], Sheet],
    members: Mapping[str, Drawing],
    names: _Names,
) -> Sheet | None:
    own = {line: each for line, each in members.items() if isinstance(each, kind)}
    return draw(own, names) if len(own) == len(members) else None


def _waits(members: Mapping[str, Distribution], names: _Names) -> Sheet:
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
        axes.plot(
            beyond, waits, ls=own.line, color=own.colour, marker=own.marker, markevery=marks, label=names.label(line)
        )
    axes.set_xscale("log")
    axes.set_yscale("log" if most > _WIDE_RANGE * least else "linear")
    shown = [nine for nine in _NINES if 1 / (1 - nine) <= max(counts.values()) * 1.01] or [_NINES[0]]
    fixed_ticks(axes.xaxis, [1.0, *(1 / (1 - nine) for nine in shown)], ["0", *(f"{100 * nine:.7g}" for nine in shown)])
    axes.set_xlabel("percentile / %")
    axes.set_ylabel("latency / ms")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    plain_ticks(axes.yaxis, log=axes.get_yscale() == "log")
    legend(sheet, map(names.label, members))
    return sheet


def _lines(members: Mapping[str, Curve], names: _Names) -> Sheet:
    first = next(iter(members.values()))
    sheet, axes = new_sheet(_HEIGHT, first.title)
    for place, (line, curve) in enumerate(members.items()):
        own = look(place)
        axes.plot(curve.x, curve.y, ls=own.line, color=own.colour, marker=own.marker, label=names.label(line))
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
    legend(sheet, map(names.label, members))
    return sheet


def _bars(members: Mapping[str, Bars], names: _Names) -> Sheet:
    """Draw bars from zero; on a logarithmic axis, which has no zero, points. Octavo's names are bold."""
    first = next(iter(members.values()))
    bars = list(dict.fromkeys(name for each in members.values() for name in each.names))
    slot = len(members) + (0.8 if len(members) > 1 else 0.4)  # a name's bars and the gap to the next
    lowest = min(value for each in members.values() for value in each.values)
    sheet, axes = new_sheet(_ROOM_FOR_TITLE + _ROW * len(bars) * slot, first.title)
    for place, (line, each) in enumerate(members.items()):
        spots = np.array([bars.index(name) * slot + place for name in each.names])
        if first.log:
            own = look(place)
            axes.hlines(spots, lowest / 2, each.values, color=FAINT, lw=1.0, zorder=1)
            axes.plot(each.values, spots, ls="", color=own.colour, marker=own.marker, label=names.label(line))
        else:
            looks = [look(place) if len(members) > 1 else _look_of(name, names) for name in each.names]
            axes.barh(
                spots, each.values, 0.8, label=names.label(line), edgecolor=look(place).colour,
                color=["white" if own.hatch else own.colour for own in looks], hatch=[own.hatch for own in looks],
            )  # fmt: skip
        _write_values(axes, spots, each)
    axes.set_xscale("log" if first.log else "linear")
    axes.margins(x=0.18)
    axes.set_xlim(left=lowest / 2 if first.log else min(0.0, lowest))
    plain_ticks(axes.xaxis, log=first.log)
    middles = [place * slot + (len(members) - 1) / 2 for place in range(len(bars))]
    fixed_ticks(axes.yaxis, middles, [names.label(name, "\n") for name in bars])
    for name, label in zip(bars, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if name in _OURS else "normal")
    axes.set_ylim(len(bars) * slot - 0.6, -0.9)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(first.label)
    legend(sheet, map(names.label, members))
    return sheet


def _look_of(name: str, names: _Names) -> Look:
    """Tell apart Octavo's bars, others', and those of readers that left most of the text unread."""
    plain, hatched = look(0), look(1)
    return plain if name in _OURS else hatched if names.skims(name) else plain._replace(colour=FAINT)


def _write_values(axes: Axes, spots: NDArray[np.float64], bars: Bars) -> None:
    """Write each value beside its bar, and draw its interval."""
    if bars.lo is not None and bars.hi is not None:
        axes.hlines(spots, bars.lo, bars.hi, color=INK, lw=1.0)
    for spot, value, end in zip(spots, bars.values, bars.hi or bars.values, strict=True):
        axes.annotate(
            number(value), (end, spot), (7, 0), textcoords="offset points", va="center", fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},  # no grid line runs through it
        )  # fmt: skip


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
