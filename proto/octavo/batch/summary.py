"""Counts documents, errors and tokens."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.batch.records import Record
from octavo.batch.rows import Problem


@dataclass(slots=True)
class Tally:
    """Counts of a part, a run or a whole output.

    Attributes:
        errors: number of errors by reason.
        tokens: sums of the fields of `Usage` by name.
    """

    documents: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def add(self, usage: Mapping[str, int] | None, error: Mapping[str, str] | None) -> None:
        """Count a document's row."""
        self.documents += 1
        if error:
            self.errors[error["reason"]] += 1
        elif usage:
            self.tokens.update(usage)

    def add_record(self, record: Record) -> None:
        """Count a document."""
        if isinstance(record.outcome, Problem):
            self.add(None, {"reason": record.outcome.reason})
            return
        usage = record.outcome.usage
        self.add({name: getattr(usage, name) for name in usage.__slots__}, None)

    def merge(self, others: Iterable["Tally"]) -> None:
        """Add other tallies."""
        for other in others:
            self.documents += other.documents
            self.errors.update(other.errors)
            self.tokens.update(other.tokens)

    @property
    def failed(self) -> int:
        """Number of failed documents."""
        return self.errors.total()

    @property
    def hits(self) -> float:
        """Share of tokens that came from the cache."""
        return self.tokens["cached_tokens"] / (self.tokens["processed_tokens"] or 1)

    def values(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "documents": self.documents,
            "succeeded": self.documents - self.failed,
            "failed": self.failed,
            "errors": dict(sorted(self.errors.items())),
            **{name: self.tokens[name] for name in ("tokens", "processed_tokens", "computed_tokens", "cached_tokens")},
            "charged_tokens": self.tokens["charged_tokens"],
            "hits": round(self.hits, 4),
        }
