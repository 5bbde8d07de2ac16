"""Makes an index have a folder's files as they are now."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal

from octavo.cli.connection import explained, is_unreachable
from octavo.cli.documents import in_order
from octavo.client import Change, Client, FingerprintMismatch, Held, OctavoError, SyncReport
from octavo.client.arguments import CallArguments
from octavo.index.errors import OtherIndex
from octavo.index.files import File, Scan, content_digest, read
from octavo.index.store import Store

State = Literal["added", "changed", "unchanged", "deleted", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file; `error` if it failed, `report` if it was sent to the server."""

    name: str
    state: State
    size: int = 0
    report: SyncReport | None = None
    error: str = ""


@dataclass(slots=True)
class Tally:
    """Counts of files, and of what was sent to the server: segments and tokens.

    Attributes:
        new_segments: segments whose vectors the index did not have.
        reused_segments: segments whose vectors it had.
        tokens: tokens of all these segments.
        computed_tokens: tokens that the server computed.
        cached_tokens: tokens that the server had in its cache.
    """

    files: dict[State, int] = field(
        default_factory=lambda: {"added": 0, "changed": 0, "unchanged": 0, "deleted": 0, "failed": 0}
    )
    new_segments: int = 0
    reused_segments: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count a file."""
        self.files[outcome.state] += 1
        if report := outcome.report:
            self.new_segments += report.added
            self.reused_segments += report.unchanged
            self.tokens += report.usage.tokens
            self.computed_tokens += report.usage.computed_tokens
            self.cached_tokens += report.usage.cached_tokens

    @property
    def moved(self) -> bool:
        """Whether anything changed or failed."""
        return any(count for state, count in self.files.items() if state != "unchanged")


@dataclass(frozen=True, slots=True)
class FolderSync:
    """One pass over a folder.

    Attributes:
        arguments: of every call.
        dry_run: only find out what would be done, and what it would cost.
    """

    client: Client
    store: Store
    arguments: CallArguments
    encoding: str = "utf-8"
    timeout: float | None = None
    in_flight: int = 4
    dry_run: bool = False

    def run(self, found: Scan) -> Iterator[Outcome]:
        """Sync the files and yield what became of each.

        Raises:
            OtherIndex: the server's vectors cannot be compared with the index's.
            OctavoError: the server cannot be reached.
        """
        known = {name: json.loads(about) for name, about in self.store.abouts().items()}
        yield from (Outcome(name, "failed", error=reason) for name, reason in found.problems.items())
        yield from (self._deleted(name) for name in known if name not in found.files and found.knows(name))
        changed = []
        for file in found.files.values():
            if file.stamp and known.get(file.name, {}).get("stamp") == file.stamp:
                yield Outcome(file.name, "unchanged", file.size)
            else:
                changed.append(file)

        def work(file: File) -> Outcome:
            return self._sync(file, known.get(file.name))

        for file, future in in_order(changed, work, self.in_flight):
            yield self._outcome(file, future)

    def _sync(self, file: File, known: Mapping[str, str] | None) -> Outcome:
        try:
            data, file = read(file)
        except FileNotFoundError:  # since the scan
            return self._deleted(file.name) if known else Outcome(file.name, "unchanged")
        about = {"content": content_digest(data), "stamp": file.stamp}
        if known and known["content"] == about["content"]:
            if about != known and not self.dry_run:
                self.store.note(file.name, json.dumps(about))
            return Outcome(file.name, "unchanged", file.size)
        report = self._send(file.name, data.decode(self.encoding), json.dumps(about))
        return Outcome(file.name, "changed" if known else "added", file.size, report)

    def _send(self, name: str, text: str, about: str) -> SyncReport:
        index = _Noting(self.store, about)
        report = self.client.sync(name, text, index, dry_run=self.dry_run, timeout=self.timeout, **self.arguments)
        if not (report.added or report.unchanged or self.dry_run):  # no token, so perhaps no change to apply
            self.store.clear(name, about)
        return report

    def _deleted(self, name: str) -> Outcome:
        if not self.dry_run:
            self.store.delete([name])
        return Outcome(name, "deleted")

    def _outcome(self, file: File, future: "Future[Outcome]") -> Outcome:
        failed = Outcome(file.name, "failed", file.size)
        try:
            return future.result()
        except FingerprintMismatch as fault:
            raise OtherIndex(
                f"{self.store.name} has vectors of fingerprint {self.store.fingerprint}, and the server would compute "
                "others: use the model and settings that made the index, or make a new one"
            ) from fault
        except OctavoError as fault:
            if is_unreachable(fault):
                raise
            return replace(failed, error=explained(fault))
        except UnicodeDecodeError as fault:
            return replace(failed, error=f"byte {fault.start:,} is not {self.encoding}")
        except OSError as fault:
            return replace(failed, error=fault.strerror or str(fault))


@dataclass(frozen=True, slots=True)
class _Noting:
    """A `SegmentIndex` that keeps what is known about the file in the same transaction as its segments."""

    store: Store
    about: str

    def held(self, document_id: str) -> Held | None:
        return self.store.held(document_id)

    def apply(self, document_id: str, change: Change) -> None:
        self.store.apply(document_id, change, self.about)
