"""Counts documents, errors, tokens and parts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.batch.errors import TooManyErrors
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


@dataclass(slots=True)
class Counts:
    """What became of a job's parts.

    Attributes:
        run: counts of this run.
        before: counts of parts in our share that earlier runs completed.
        parts: number of parts found so far.
        others: number of rows of the parts of other shares, by part.
    """

    run: Tally = field(default_factory=Tally)
    before: Tally = field(default_factory=Tally)
    parts: int = 0
    others: dict[int, int] = field(default_factory=dict)

    def merge(self, other: "Counts") -> None:
        """Add the counts of other parts."""
        self.run.merge([other.run])
        self.before.merge([other.before])
        self.parts = max(self.parts, other.parts)
        self.others.update(other.others)

    def check(self, max_errors: int | None) -> None:
        """Check the number of rows that failed.

        Raises:
            TooManyErrors: there are more than `max_errors`; None: any number is allowed.
        """
        failed = self.run.failed + self.before.failed
        if max_errors is not None and failed > max_errors:
            raise TooManyErrors(f"{failed:,} rows failed, more than --max-errors {max_errors:,}")
