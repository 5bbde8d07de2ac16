"""Finds scenarios in the sources, so that listing them imports neither torch nor the server."""

import ast
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.figures import Figures


@dataclass(frozen=True, slots=True)
class Scenario:
    """A module with a `run`, not imported until it is asked for its `command` or run.

    A scenario whose parts fill a package is the package's module `scenario`, and goes by the package's name. A name
    has a dash where the module has an underscore.
    """

    name: str
    description: str
    package: bool = False

    @property
    def summary(self) -> str:
        """The description's first line."""
        return self.description.partition("\n")[0]

    def load(self) -> tuple[Callable[..., Figures], Sequence[click.Parameter]]:
        """Import the module: its `run`, and the options declared on it in their order."""
        module = f"benchmarks.{self.name.replace('-', '_')}{'.scenario' if self.package else ''}"
        run = importlib.import_module(module).run
        # Where click.option keeps what decorates a function that is not a command itself (last decorator first).
        return run, tuple(reversed(getattr(run, "__click_params__", ())))


def scenarios(folder: Path = Path(__file__).parent) -> dict[str, Scenario]:
    """Find all scenarios by name, sorted."""
    paths = [*folder.glob("[!_]*.py"), *folder.glob("[!_]*/scenario.py")]
    found = filter(None, map(_read, paths))
    return {scenario.name: scenario for scenario in sorted(found, key=lambda scenario: scenario.name)}


def _read(path: Path) -> Scenario | None:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
        return None
    package = path.stem == "scenario"
    name = path.parent.name if package else path.stem
    return Scenario(name.replace("_", "-"), ast.get_docstring(tree) or "", package)
