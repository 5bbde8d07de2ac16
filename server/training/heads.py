"""A trained head, and the folder that it is written to, which has no layers of its own."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save_file

from encoder import fitting
from encoder.fitting import Examples, Fitted
from encoder.folder import HEAD_WEIGHTS, MANIFEST, Pooling
from server.inference.models import ServedModel
from server.training.examples import Data

_CARD: Final = "README.md"


@dataclass(frozen=True, slots=True)
class About:
    """What a head's folder says of it besides how it was made; `licence` is an SPDX identifier or empty."""

    version: str
    licence: str
    trained_on: str


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A trained head, and what it was trained on.

    Attributes:
        model: the model whose states it reads.
    """

    data: Data
    model: ServedModel
    fitted: Fitted

    @property
    def pooling(self) -> Pooling | None:
        """How a segment's states become the vector that it reads; None if it reads each token's state."""
        return None if self.data.task == "tokens" else self.model.folder.pooling

    @property
    def measured(self) -> str:
        """How it does on documents that it was not fitted on."""
        single = self.data.task == "classify" and not self.data.multi_label
        kind = "accuracy" if single else "micro-averaged F1"
        unit = "tokens" if self.data.task == "tokens" else "documents"
        return f"{kind} {self.fitted.f1:.4f} and mean log loss {self.fitted.loss:.4f} on held-out {unit}"

    def manifest(self, about: About) -> dict[str, Any]:
        """The content of `octavo.json`."""
        folder = self.model.folder
        pooled = {"pooling": self.pooling, "normalize": folder.normalize} if self.pooling else {}
        return {
            "version": about.version,
            "task": self.data.task,
            "labels": self.data.labels,
            "multi_label": self.data.multi_label,
            **pooled,
            "trunk": {"name": folder.name, "digest": folder.digest},
            "licence": about.licence,
            "trained_on": about.trained_on,
        }

    def save(self, out: Path, about: About, card: str) -> None:
        """Write a new folder atomically. Raises FileExistsError if it exists."""
        if out.exists():
            raise FileExistsError(f"{out} exists already")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            made = Path(scratch) / out.name
            made.mkdir()
            save_file({"weight": self.fitted.weight, "bias": self.fitted.bias}, made / HEAD_WEIGHTS)
            (made / HEAD_WEIGHTS).chmod(0o644)  # as the others, regardless of safetensors
            (made / MANIFEST).write_text(json.dumps(self.manifest(about), indent=2) + "\n", "utf-8")
            (made / _CARD).write_text(card, "utf-8")
            made.rename(out)


def train(model: ServedModel, data: Data, examples: Examples, advance: Callable[[int], None] = lambda _: None) -> Head:
    """Train a head on the examples that were made of the data.

    Args:
        model: the model whose states it reads.
        data: labelled documents.
        examples: what `server.training.features.read_examples` made of them.
        advance: called with the number of fits that are done or left out, in all `fitting.MOST_FITS`.
    """
    scored = slice(1, None) if data.task == "tokens" else slice(None)  # without "O", which most tokens are
    return Head(data, model, fitting.fit(examples, scored=scored, advance=advance))


def card(name: str, head: Head, about: About, more: str = "") -> str:
    """A head's README."""
    fitted, data = head.fitted, head.data
    rule = {
        "tokens": "Each token's state is read.",
        "classify": "A document's logits are the mean of its segments', weighted by the tokens that they own.",
    }
    most = "A document's logits are the largest over its segments."
    title = f"---\nlicense: {about.licence.lower()}\n---\n\n# {name}\n" if about.licence else f"# {name}\n"
    return f"""{title}
A linear head on the frozen states of {head.model.folder.name}: {data.task}, {len(data.labels)} labels.

- Labels: {", ".join(data.labels)}.
- Trained on: {about.trained_on}
- Method: logistic regression on {len(data.documents):,} documents.
  {most if data.multi_label else rule[data.task]}
  Cross-validation in {fitting.FOLDS} folds chose the L2 penalty, {fitted.penalty:.2g} on standardised features, and the
  temperature by which logits were divided, {fitted.temperature:.3f}.
- Measured: {head.measured}.
{more}"""
