"""Whether the records quoted in README and docs/ are valid for the current code.

They must be from one commit and a clean tree, on processors that are named in the texts, and no code may have changed
since. `python -m benchmarks texts --check` lists violations.
"""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import processor
from benchmarks.reporting.record import Record, RecordError, read
from benchmarks.reporting.texts import RESULTS, ROOT, TextError, claims, held

CODE = ("cache", "chunking", "encoder", "server", "proto/octavo")
"""What the figures speak of, within a checkout."""

_DIRTY = "-dirty"


def faults(texts: Iterable[Path], results: Path = RESULTS, checkout: Path = ROOT) -> list[str]:
    """List what is wrong with the texts' figures and with the records that they quote; nothing if all is well."""
    quoted: dict[str, list[Path]] = {}
    found: list[str] = []
    for text in texts:
        try:
            named = list(claims(text.read_text(encoding="utf-8")))
            recorded = {claim: held(claim, results) for claim in named}
        except TextError as error:
            found.append(f"{text.name}: {error}")
            continue
        found += [
            f"{text.name}: {claim.scenario}.{claim.figure} is {value}, not {claim.written}"
            for claim, value in recorded.items()
            if claim.written != value
        ]
        for scenario in sorted({claim.scenario for claim in named}):
            quoted.setdefault(scenario, []).append(text)
    records: dict[str, Record] = {}
    for scenario in quoted:
        try:
            records[scenario] = read(results / f"{scenario}.json")
        except RecordError as error:
            found.append(str(error))
    return found + _of_processors(records, quoted) + _of_commits(records, checkout)


def _of_processors(records: Mapping[str, Record], quoted: Mapping[str, Sequence[Path]]) -> list[str]:
    found = []
    for scenario, record in records.items():
        if (name := processor(record.machine)) is None:
            found.append(f"{scenario}: the record's processor has no name: {record.machine.get('cpu', 'not recorded')}")
            continue
        found += [
            f"{text.name}: quotes {scenario} and does not name its processor, {name}"
            for text in quoted[scenario]
            if name not in text.read_text(encoding="utf-8")
        ]
    return found


def _of_commits(records: Mapping[str, Record], checkout: Path) -> list[str]:
    found = [f"{scenario}: measured outside a checkout" for scenario, record in records.items() if not record.commit]
    commits: dict[str, list[str]] = {}
    for scenario, record in records.items():
        if record.commit:
            commits.setdefault(record.commit, []).append(scenario)
    if len(commits) > 1:
        each = "; ".join(f"{commit[:12]} ({', '.join(sorted(names))})" for commit, names in sorted(commits.items()))
        found.append(f"the records are of {len(commits)} commits: {each}")
    for commit, names in sorted(commits.items()):
        who = ", ".join(sorted(names))
        if commit.endswith(_DIRTY):
            found.append(f"{who}: measured with uncommitted changes ({commit[:12]})")
        elif why := _changed_since(commit, checkout):
            found.append(f"{who}: {why}")
    return found


def _changed_since(commit: str, checkout: Path) -> str | None:
    """Tell what of the code differs from a commit; None if nothing does."""
    command = ["git", "diff", "--name-only", commit, "--", *CODE]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"commit {commit[:12]} is not in this checkout"
    changed = done.stdout.split()
    return f"{len(changed)} files changed since {commit[:12]}, {changed[0]} among them" if changed else None
