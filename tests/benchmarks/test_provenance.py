"""Records that README and docs/ may quote: of one commit, from a clean tree, on named processors, of today's code."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks import machine
from benchmarks.figures import Figure
from benchmarks.reporting import provenance
from benchmarks.reporting.provenance import faults
from benchmarks.reporting.record import Record, write

ZEN4: Mapping[str, Any] = {"cpu": "AMD EPYC", "cpu_family_model": "25 17 1"}
TEXT = "On an AMD Zen 4: 5<!-- engine.speed --> tokens/s, 7<!-- load.capacity --> tokens/s.\n"


class Checkout:
    """A repository with a text, a file of code, and two records."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text, self.results = folder, folder / "README.md", folder / "results"
        self.results.mkdir()
        (folder / "server").mkdir()
        self.text.write_text(TEXT)
        self._git("init", "-q")
        self.first = self.commit("server/app.py", "one")
        self.record()

    def commit(self, file: str, content: str) -> str:
        (self.folder / file).write_text(content)
        self._git("add", file)
        self._git("-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-qm", content)
        return self._git("rev-parse", "HEAD")

    def record(self, engine: str | None = "", load: str | None = "", described: Mapping[str, Any] = ZEN4) -> None:
        for name, figure, value, commit in (("engine", "speed", 5.0, engine), ("load", "capacity", 7.0, load)):
            of = self.first if commit == "" else commit
            made = Record(name, dict(described), {}, of, {}, "2020-01-01", 1.0, {figure: Figure(value, "tokens/s")})
            write(made, self.results / f"{name}.json")

    def faults(self) -> list[str]:
        return faults([self.text], self.results, self.folder)

    def _git(self, *command: str) -> str:
        done = subprocess.run(["git", *command], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_records_of_one_clean_commit_on_a_named_processor_are_right(checkout: Checkout) -> None:
    checkout.commit("results.txt", "what is no code may change")
    assert checkout.faults() == []


def test_records_of_several_commits_are_told(checkout: Checkout) -> None:
    other = checkout.commit("other.txt", "two")
    checkout.record(load=other)
    (fault,) = checkout.faults()
    assert fault.startswith("the records are of 2 commits: ")
    assert f"{checkout.first[:12]} (engine)" in fault
    assert f"{other[:12]} (load)" in fault


@pytest.mark.parametrize(
    ("commit", "expected"),
    [
        ("{first}-dirty", "engine, load: measured with uncommitted changes"),
        (None, "engine: measured outside a checkout"),
        ("0" * 40, "engine, load: commit 000000000000 is not in this checkout"),
    ],
)
def test_a_record_without_a_commit_that_can_be_looked_up_is_told(
    checkout: Checkout, commit: str | None, expected: str
) -> None:
    of = commit and commit.format(first=checkout.first)
    checkout.record(of, of)
    assert checkout.faults()[0].startswith(expected)


def test_a_record_older_than_the_code_is_told(checkout: Checkout) -> None:
    checkout.commit("server/app.py", "two")
    assert checkout.faults() == [f"engine, load: 1 files changed since {checkout.first[:12]}, server/app.py among them"]


def test_a_processor_without_a_name_is_told_and_so_is_a_text_that_does_not_say_it(checkout: Checkout) -> None:
    checkout.record(described={"cpu": "Some CPU"})
    assert checkout.faults() == [f"{name}: the record's processor has no name: Some CPU" for name in ("engine", "load")]
    checkout.record(described={"cpu": "Intel(R) Xeon(R) Processor", "cpu_family_model": "6 207 2"})
    assert checkout.faults()[0] == "README.md: quotes engine and does not name its processor, Intel Emerald Rapids"


def test_a_figure_that_is_not_the_record_s_is_told(checkout: Checkout) -> None:
    checkout.text.write_text(TEXT.replace("5<", "6<"))
    assert checkout.faults() == ["README.md: engine.speed is 5, not 6"]
    checkout.text.write_text(TEXT.replace("load.capacity", "load.gone"))
    assert checkout.faults() == ["README.md: load.gone: the record has no such figure"]


def test_the_command_fails_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, status in ((["a fault"], 1), ([], 0)):
        monkeypatch.setattr(provenance, "faults", lambda _, found=found: found)
        result = CliRunner().invoke(cli.main, ["texts", "--check"])
        assert (result.exit_code, result.output.split("\n")[:-1]) == (status, found)


@pytest.mark.parametrize(
    ("cpu", "numbers", "name"),
    [
        ("AMD EPYC", "25 17 1", "AMD Zen 4"),
        ("AMD EPYC 7763 64-Core Processor", "25 1 1", "AMD Zen 3"),
        ("Intel(R) Xeon(R) Processor", "6 143 8", "Intel Sapphire Rapids"),
        ("Intel(R) Xeon(R) Processor", "6 15 8", None),
        ("ARM", "", None),
    ],
)
def test_processors_are_named_by_family_and_model(cpu: str, numbers: str, name: str | None) -> None:
    assert machine.processor({"cpu": cpu, "cpu_family_model": numbers}) == name
