"""What a job is, written beside its output: whoever goes on with it has to want the same."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from octavo.batch.documents import Columns
from octavo.batch.errors import OtherJob, OutputError
from octavo.batch.survey import Digest, Survey

VERSION = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What decides the output, beside the inputs. Whatever else a command says may change from run to run."""

    columns: Columns
    values: Mapping[str, Any]
    """By the names of the command's options, without their dashes; of plain JSON."""

    def named(self) -> dict[str, Any]:
        """All of them by name."""
        return {
            "text-column": self.columns.text,
            "id-column": self.columns.id,
            "keep": list(self.columns.kept),
            **self.values,
        }


@dataclass(frozen=True, slots=True)
class Vectors:
    """What the servers make: by which model, comparable with what, how many values of which type."""

    model: str
    fingerprint: str
    dimensions: int
    data_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A job.

    Attributes:
        key: hex; of the inputs' digests.
        options: by name.
        inputs: in their order.
        survey: what was found in them.
        vectors: what is made.
    """

    key: str
    options: Mapping[str, Any]
    inputs: tuple[Digest, ...]
    survey: Survey
    vectors: Vectors

    def dump(self) -> bytes:
        """As JSON."""
        values = {
            "version": VERSION,
            "options": dict(self.options),
            "model": self.vectors.model,
            "fingerprint": self.vectors.fingerprint,
            "vector": {"dimensions": self.vectors.dimensions, "data_type": self.vectors.data_type},
            "rows": self.survey.rows,
            "kept": list(self.survey.kinds),
            "key": self.key,
            "inputs": [each.values() for each in self.inputs],
        }
        return json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8", "surrogateescape") + b"\n"

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Read it back.

        Raises:
            OutputError: it is none, or of another version.
        """
        try:
            values = json.loads(data.decode("utf-8", "surrogateescape"))
            if values["version"] != VERSION:
                raise OutputError(f"_manifest.json is of version {values['version']}; this octavo writes {VERSION}")
            vector = values["vector"]
            return cls(
                values["key"],
                values["options"],
                tuple(Digest(**each) for each in values["inputs"]),
                Survey(values["rows"], tuple(values["kept"])),
                Vectors(values["model"], values["fingerprint"], vector["dimensions"], vector["data_type"]),
            )
        except (ValueError, KeyError, TypeError) as fault:
            raise OutputError(f"_manifest.json cannot be read: {type(fault).__name__}") from None


def new_key() -> str:
    """A key for a new job's digests."""
    return secrets.token_hex(16)


def check_options(before: Manifest, options: Options) -> None:
    """Refuse to go on with other options.

    Raises:
        OtherJob: some differ; each is named.
    """
    now = options.named()
    names = [name for name in {**before.options, **now} if before.options.get(name) != now.get(name)]
    differ = [f"--{name} {_shown(before.options.get(name))}, not {_shown(now.get(name))}" for name in names]
    if differ:
        raise OtherJob(f"this output was begun with {'; '.join(differ)}: give the same, or another --output")


def check_inputs(before: Manifest, inputs: tuple[Digest, ...]) -> None:
    """Refuse to go on with other inputs.

    Raises:
        OtherJob: some differ; each is named.
    """
    if len(inputs) != len(before.inputs):
        raise OtherJob(f"this output was begun with {len(before.inputs)} inputs, not {len(inputs)}")
    differ = [new.input for old, new in zip(before.inputs, inputs, strict=True) if old.digest != new.digest]
    if differ:
        raise OtherJob(f"--input {', '.join(differ)} is not what it was when this output was begun")


def check_vectors(before: Manifest, vectors: Vectors) -> None:
    """Refuse to go on with vectors that could not share an index.

    Raises:
        OtherJob: the servers make others.
    """
    old = before.vectors
    if old != vectors:
        raise OtherJob(
            f"this output was begun with the model {old.model} (fingerprint {old.fingerprint[:12]}); the server's "
            f"{vectors.model} (fingerprint {vectors.fingerprint[:12]}) makes other vectors"
        )


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if value is True else str(value)
