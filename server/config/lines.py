"""Finds the lines of a TOML file on which its tables and keys are. `tomllib` does not tell them."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

Key: TypeAlias = tuple[str | int, ...]

_TABLE = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_ASSIGNMENT = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w.-])+(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_NAME = re.compile(r"""["']?([^"'.\s]+)["']?""")


def lines_of(text: str) -> dict[Key, int]:
    """The number of each line that begins a table or a key's value, by path; what is inside a value has none."""
    found: dict[Key, int] = {}
    entries: Counter[str] = Counter()  # of arrays of tables
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            first, *rest = _NAME.findall(header[2])
            entries[first] += header[1] == "[["
            table = (first, entries[first] - 1, *rest) if entries[first] else (first, *rest)
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            found.setdefault((*table, *_NAME.findall(assignment[1])), number)
    return found


def line_of(path: Key, lines: Mapping[Key, int]) -> int | None:
    """The line of a path, else of what contains it."""
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None)
