"""The style of charts: readable on a phone and in black and white, without overlaps."""

import math
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from benchmarks.reporting.table import number

INK, FAINT = "#1b1b1b", "#c9c9c9"
_WIDTH = 4.9  # inches: at 350 CSS pixels, text has nearly its own size
_TITLE_CHARACTERS = 50  # of a line of the title
_LEGEND_CHARACTERS = 44  # of a line of the legend, besides the lines shown
_LEGEND_LINE = 0.2  # inches
_DECADES_WITHOUT_HALVES = 3  # a logarithmic axis of more decades is labelled at 1, 10, 100 alone


class Look(NamedTuple):
    """What tells one member of a group from the others: each of these does, alone."""

    colour: str
    line: str | tuple[int, tuple[float, ...]]
    marker: str
    hatch: str


# Colours fall in lightness too, so that a grey print keeps them apart.
LOOKS = (
    Look("#14213d", "-", "o", ""),
    Look("#b5442e", "--", "s", "////"),
    Look("#2f7f79", "-.", "^", "...."),
    Look("#8a6d1f", ":", "D", "xxxx"),
    Look("#7a5c9e", (0, (7, 2)), "v", "----"),
    Look("#6d6d6d", (0, (3, 1, 1, 1, 1, 1)), "P", "++++"),
    Look("#3f87c4", (0, (1, 3)), "X", "\\\\\\\\"),
    Look("#c98b2c", (0, (5, 1, 1, 1)), "*", "oooo"),
)


def look(place: int) -> Look:
    """Give a member's look by its place in the group."""
    return LOOKS[place % len(LOOKS)]


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style until the block ends. Text becomes outlines: it looks the same wherever it is opened."""
    with mpl.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9.5,
            "figure.titlesize": 10.5,
            "figure.titleweight": "bold",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "lines.linewidth": 1.7,
            "lines.markersize": 5.5,
            "hatch.linewidth": 0.7,
            "figure.constrained_layout.h_pad": 0.08,
            "figure.constrained_layout.w_pad": 0.08,
            "legend.frameon": False,
            "legend.handlelength": 3.0,
            "legend.labelspacing": 0.5,
            "legend.columnspacing": 1.2,
            "svg.fonttype": "path",
            "svg.hashsalt": "octavo",  # the same records give the same page
        }
    ):
        yield


def new_sheet(height: float, title: str) -> tuple[Sheet, Axes]:
    """Make an empty chart with this title; its height is in inches."""
    sheet = Sheet(figsize=(_WIDTH, height), layout="constrained")
    sheet.suptitle(textwrap.fill(title, _TITLE_CHARACTERS), x=0.015, ha="left")
    return sheet, sheet.add_subplot()


def legend(sheet: Sheet, labels: Iterable[str]) -> None:
    """Name the members below the chart, which grows by the room for it; one alone needs no name."""
    lengths = [len(label) for label in labels]
    if len(lengths) > 1:
        columns = max(1, _LEGEND_CHARACTERS // (max(lengths) + 6))
        sheet.legend(loc="outside lower left", ncols=min(columns, len(lengths)))
        sheet.set_figheight(sheet.get_figheight() + _LEGEND_LINE * math.ceil(len(lengths) / columns))


def plain_ticks(axis: Axis, *, log: bool) -> None:
    """Label an axis with numbers as people write them, at 1, 2 and 5 of a decade where there are few decades."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    if not log:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        return
    low, high = sorted(axis.get_view_interval())
    few = high / low < 10**_DECADES_WITHOUT_HALVES
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def fixed_ticks(axis: Axis, places: list[float], labels: list[str]) -> None:
    """Label an axis at these places alone."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FuncFormatter(lambda _, place: labels[place] if place is not None else ""))
    axis.set_minor_locator(NullLocator())
