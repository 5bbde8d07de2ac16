"""What a check found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fail` would stop the server, `warn` makes it slower or stranger than it need be."""

    level: Literal["ok", "note", "warn", "fail"]
    subject: str
    says: str
