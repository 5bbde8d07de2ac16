"""Which scenarios exist: read from the sources, so that listing them imports neither torch nor a server."""

import ast
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.figures import Figures

__all__ = ["Scenario", "scenarios"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A module with a ``run``, not imported until it is asked for its ``command`` or run."""

    name: str
    description: str

    @property
    def summary(self) -> str:
        """The description's first line."""
        return self.description.partition("\n")[0]

    def load(self) -> tuple[Callable[..., Figures], Sequence[click.Parameter]]:
        """Import the module: its ``run``, and the options declared on it in their order."""
        run = importlib.import_module(f"benchmarks.{self.name}").run
        # Where click.option keeps what decorates a function that is not a command itself (last decorator first).
        return run, tuple(reversed(getattr(run, "__click_params__", ())))


def scenarios(folder: Path = Path(__file__).parent) -> dict[str, Scenario]:
    """Find all scenarios by name, sorted."""
    found = (_read(path) for path in sorted(folder.glob("[!_]*.py")))
    return {scenario.name: scenario for scenario in found if scenario}


def _read(path: Path) -> Scenario | None:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
        return None
    return Scenario(path.stem, ast.get_docstring(tree) or "")
