"""A run's record: everything needed to judge a figure later. Stored as JSON."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Bars, Curve, Distribution, Drawing, Figure, Figures, Missing, Outcome, Reading
from benchmarks.targets import Verdict, judge, of_scenario

_KINDS: dict[str, type[Drawing]] = {"distribution": Distribution, "curve": Curve, "bars": Bars}


class RecordError(ValueError):
    """A file is no record of ours; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class Record:
    """A scenario's run: where, with what, when, and what came of it."""

    scenario: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    settings: dict[str, Any]
    started: str
    seconds: float
    figures: Figures

    @property
    def readings(self) -> dict[str, Reading]:
        """What is a number, or should have been."""
        return {name: each for name, each in self.figures.items() if isinstance(each, Figure | Missing)}

    @property
    def drawings(self) -> dict[str, Drawing]:
        """What the report draws."""
        return {name: each for name, each in self.figures.items() if not isinstance(each, Figure | Missing)}

    @property
    def misses(self) -> list[str]:
        """Ids of figures that are missing or do not hold what they must."""
        targets = of_scenario(self.scenario)
        verdicts = {name: judge(reading, targets.get(name)) for name, reading in self.readings.items()}
        elsewhere = {
            name for name, reading in self.readings.items() if isinstance(reading, Missing) and not reading.is_miss
        }
        missed = [name for name, verdict in verdicts.items() if verdict in {Verdict.MISS, Verdict.MISSING}]
        return [name for name in missed if name not in elsewhere]

    def as_json(self) -> dict[str, Any]:
        """Give the documented form. A missing figure has `value` null and a `missing` that says why."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {"figures": {name: _reading_json(each) for name, each in self.readings.items()}}
        if drawings := self.drawings:
            fields |= {"drawings": {name: _drawing_json(each) for name, each in drawings.items()}}
        return fields


def write(record: Record, path: Path) -> None:
    """Write the record whole or not at all."""
    text = json.dumps(record.as_json(), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: the file is not one.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        drawings = {name: _drawing(each) for name, each in found.pop("drawings", {}).items()}
        figures: dict[str, Outcome] = {name: _reading(each) for name, each in found.pop("figures").items()}
        return Record(**found, figures=figures | drawings)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"{path}: not a benchmark's record: {error}") from error


def read_all(path: Path) -> list[Record]:
    """Read the record of a file, or those of a folder's files by name.

    Raises:
        RecordError: there is none, or one is not a record.
    """
    if not path.is_dir():
        return [read(path)]
    if not (files := sorted(path.glob("*.json"))):
        raise RecordError(f"{path}: no records (*.json) in this folder")
    return [read(file) for file in files]


def _reading_json(reading: Reading) -> dict[str, Any]:
    if isinstance(reading, Missing):
        return {"value": None, "unit": None, "missing": reading.reason}
    if not math.isfinite(reading.value):
        return {"value": None, "unit": reading.unit, "missing": f"not a finite number: {reading.value}"}
    return _given(reading)


def _drawing_json(drawing: Drawing) -> dict[str, Any]:
    (kind,) = (name for name, each in _KINDS.items() if isinstance(drawing, each))
    return {"kind": kind, **_given(drawing)}


def _given(found: Figure | Drawing) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if value is not None}


def _reading(found: Mapping[str, Any]) -> Reading:
    return Missing(found["missing"]) if "missing" in found else Figure(**found)


def _drawing(found: Mapping[str, Any]) -> Drawing:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items() if n != "kind"}
    return _KINDS[found["kind"]](**fields)
