"""Renders records as one self-contained page: charts as inline SVG, then figures with their required values."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.figures import Missing
from benchmarks.registry import scenarios
from benchmarks.reporting.charts import Chart, charts
from benchmarks.reporting.record import Record
from benchmarks.reporting.table import Row, number, rows
from benchmarks.targets import Verdict, judge, of_scenario

# What a reader asks first: how do others do, what does length cost, what does an edit cost; then the rest.
_OPENING = ("peers", "scale", "ablation")
_ORDER = (*_OPENING, "latency", "load", "engine", "cache", "fidelity")
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Section:
    """A scenario as the page shows it."""

    name: str
    summary: str
    charts: list[Chart]
    rows: list[Row]
    misses: list[str]
    meanings: dict[str, str]
    machine: str
    where: list[tuple[str, str]]

    @property
    def title(self) -> str:
        """The scenario's name as a heading."""
        return self.name.replace("-", " ").capitalize()

    def anchor(self, figure: str) -> str:
        """The id of a figure's row."""
        return re.sub(r"\s+", "-", f"{self.name}.{figure}")


def write_page(records: Iterable[Record], folder: Path) -> Path:
    """Write `index.html` and a PNG a chart into the folder; the page's path."""
    ordered = sorted(records, key=_place)
    sections = [_section(record) for record in ordered]
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for chart in section.charts:
            (folder / f"{chart.name}.png").write_bytes(chart.png)
    path = folder / "index.html"
    path.write_text(_page(ordered, sections), encoding="utf-8")
    return path


def _page(records: Sequence[Record], sections: list[Section]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [section for section in sections if section.charts]
    return environment.get_template("page.html").render(
        sections=sections,
        opening=[section for section in drawn if section.name in _OPENING],
        others=[section for section in drawn if section.name not in _OPENING],
        machines=list(dict.fromkeys(_machine(record.machine) for record in records)),
        days=sorted({record.started[:10] for record in records}),
        promises=_promises(records),
    )


def _section(record: Record) -> Section:
    known = scenarios()
    return Section(
        record.scenario,
        known[record.scenario].summary if record.scenario in known else "",
        charts(record),
        rows(record),
        record.misses,
        {name: target.meaning for name, target in of_scenario(record.scenario).items()},
        _machine(record.machine),
        _where(record),
    )


def _promises(records: Iterable[Record]) -> dict[str, int]:
    """Count what is promised by how it stands, best first."""
    stands = dict.fromkeys((Verdict.REACHED, Verdict.MET, Verdict.MISS, Verdict.MISSING), 0)
    elsewhere = 0
    for record in records:
        for name, target in of_scenario(record.scenario).items():
            reading = record.readings.get(name)
            if reading is None or target.must is None:
                continue
            if isinstance(reading, Missing) and not reading.is_miss:
                elsewhere += 1
            else:
                stands[judge(reading, target)] += 1
    return {
        "hold what they should reach": stands[Verdict.REACHED],
        "hold what they must": stands[Verdict.MET],
        "miss what they must hold": stands[Verdict.MISS],
        "could not be measured": stands[Verdict.MISSING],
        "need another machine": elsewhere,
    }


def _where(record: Record) -> list[tuple[str, str]]:
    """Tell where, with what and how it was measured."""
    return [
        ("machine", _machine(record.machine)),
        ("instructions", " ".join(record.machine.get("isa", ()))),
        ("load before", " ".join(map(str, record.machine.get("load_average", ())))),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("commit", record.commit or "not from a checkout"),
        ("settings", ", ".join(f"{name} = {value}" for name, value in record.settings.items())),
        ("measured", f"{record.started}, in {number(record.seconds)} s"),
        ("again with", f"python -m benchmarks {record.scenario}"),
    ]


def _machine(machine: dict[str, Any]) -> str:
    memory = f"{machine['memory_bytes'] / _GIB:.0f} GiB" if "memory_bytes" in machine else ""
    parts = (machine.get("cpu", ""), f"{machine['cores']} cores" if "cores" in machine else "", memory)
    return ", ".join([*filter(None, parts), machine.get("system", "")]).strip(", ")


def _place(record: Record) -> tuple[int, str]:
    return (_ORDER.index(record.scenario) if record.scenario in _ORDER else len(_ORDER)), record.scenario
