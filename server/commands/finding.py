"""The result of a check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fail` prevents the server from starting; `warn` is a likely mistake or a slowdown."""

    level: Literal["ok", "note", "warn", "fail"]
    subject: str
    says: str
