"""Compares the figures in README and docs/ with the committed records.

A number in a text is followed, without a space, by a comment that names its figure; it does not show when rendered:

    read at 36,865<!-- document.long_document_speed --> tokens/s

It must be the value in `benchmarks/results/document.json` rounded to the decimals that the text writes. A
text that counts in another unit says so: `1.2<!-- cache.cold_ms / 1000 --> s`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.reporting.record import Record, RecordError, read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_CLAIM = re.compile(
    r"(?P<number>-?\d[\d,]*(?:\.(?P<decimals>\d+))?)"
    r"<!-- (?P<scenario>[\w-]+)\.(?P<figure>[^\s>]+)(?: / (?P<divisor>\d+))? -->"
)
_MARK = re.compile(r"<!-- [\w-]+\.[\w. -]+(?: / \d+)? -->")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


class TextError(ValueError):
    """A text and the records do not agree; the message says where and how."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A number in a text, and the figure that it is said to be."""

    written: str
    decimals: int
    scenario: str
    figure: str
    divisor: float


def texts() -> list[Path]:
    """List the texts that may name figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def claims(text: str) -> Iterator[Claim]:
    """Find the numbers that name a figure.

    Raises:
        TextError: a comment that names a figure follows no number.
    """
    text = _without_code(text)
    found = list(_CLAIM.finditer(text))
    if len(found) != (marks := len(_MARK.findall(text))):
        raise TextError(f"{marks - len(found)} comments that name a figure do not follow a number")
    return (_claim(match) for match in found)


def held(claim: Claim, results: Path = RESULTS) -> str:
    """Give the number as the text should write it.

    Raises:
        TextError: there is no such record, or no such figure in it.
    """
    name = f"{claim.scenario}.{claim.figure}"
    try:
        record: Record = read(results / f"{claim.scenario}.json")
    except RecordError as error:
        raise TextError(f"{name}: {error}") from error
    reading = record.readings.get(claim.figure)
    if not isinstance(reading, Figure):
        raise TextError(f"{name}: the record has no such figure")
    return f"{reading.value / claim.divisor:,.{claim.decimals}f}"


def renewed(text: str, results: Path = RESULTS) -> str:
    """Write the records' values into a text, with the decimals that it has.

    Raises:
        TextError: a figure is not in the records.
    """
    return _outside_code(
        text, lambda part: _CLAIM.sub(lambda found: held(_claim(found), results) + _comment(found), part)
    )


def _claim(found: re.Match[str]) -> Claim:
    return Claim(
        found["number"], len(found["decimals"] or ""), found["scenario"], found["figure"], float(found["divisor"] or 1)
    )


def _comment(found: re.Match[str]) -> str:
    return found[0][len(found["number"]) :]


def _without_code(text: str) -> str:
    """Blank out fenced blocks and code spans: what they show is an example."""
    return _CODE.sub("", text)


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts = _CODE.split(text)
    codes = _CODE.findall(text)
    return "".join(change(part) + code for part, code in zip(parts, [*codes, ""], strict=True))
