"""Names of models on a Hugging Face hub: `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from server.config.folders import cache_home

SCHEME: Final = "hf:"
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME: Final = re.compile(rf"{SCHEME}({_PART})/({_PART})(?:@({_PART}))?")
_COMMIT: Final = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model in a repository.

    Attributes:
        revision: a branch, tag or commit; None: the repository's main branch.
    """

    organisation: str
    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `hf:ORG/NAME[@REVISION]`; raise ValueError for anything else."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no model of a hub: write {SCHEME}ORG/NAME or {SCHEME}ORG/NAME@REVISION")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}{self._at}"

    @property
    def repository(self) -> str:
        """The repository's name on the hub."""
        return f"{self.organisation}/{self.name}"

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, whose content never changes."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))

    @property
    def folder(self) -> Path:
        """The folder of the downloaded model, which may not exist."""
        return _home() / self.organisation / f"{self.name}{self._at}"

    @property
    def _at(self) -> str:
        return f"@{self.revision}" if self.revision else ""


def added() -> Iterator[HubModel]:
    """The models that have a folder."""
    for config in sorted(_home().glob("*/*/config.json")):
        with contextlib.suppress(ValueError):  # not our folder
            yield HubModel.parse(SCHEME + "/".join(config.parent.parts[-2:]))


def _home() -> Path:
    return cache_home() / "models" / "hf"
