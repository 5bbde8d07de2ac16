"""The manifest: a job's description, stored with its output. A job can only be resumed with the same description."""

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
    """The options that determine the output. All others may change between runs.

    Attributes:
        columns: which columns are read.
        values: the other options by name, without dashes, as JSON values.
    """

    columns: Columns
    values: Mapping[str, Any]

    def named(self) -> dict[str, Any]:
        """All of these options by name."""
        return {
            "text-column": self.columns.text,
            "id-column": self.columns.id,
            "keep": list(self.columns.kept),
            **self.values,
        }


@dataclass(frozen=True, slots=True)
class Served:
    """What the servers run: the first task's model, the fingerprint of all results, and the type of vectors.

    Attributes:
        dimensions: of vectors; 0 without an Embed task.
        data_type: of their values.
    """

    model: str
    fingerprint: str
    dimensions: int
    data_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A job's description.

    Attributes:
        key: hex key of the inputs' digests.
        options: the options that determine the output, by name.
        inputs: digests of the inputs, in order.
        survey: facts about the inputs.
        served: facts about what the servers run.
    """

    key: str
    options: Mapping[str, Any]
    inputs: tuple[Digest, ...]
    survey: Survey
    served: Served

    def dump(self) -> bytes:
        """Convert to JSON."""
        values = {
            "version": VERSION,
            "options": dict(self.options),
            "model": self.served.model,
            "fingerprint": self.served.fingerprint,
            "vector": {"dimensions": self.served.dimensions, "data_type": self.served.data_type},
            "rows": self.survey.rows,
            "kept": list(self.survey.kinds),
            "key": self.key,
            "inputs": [each.values() for each in self.inputs],
        }
        return json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8", "surrogateescape") + b"\n"

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Parse JSON.

        Raises:
            OutputError: it is not a manifest, or of another version.
        """
        try:
            values = json.loads(data.decode("utf-8", "surrogateescape"))
            if values["version"] != VERSION:
                raise OutputError(f"_manifest.json has version {values['version']}; this octavo supports {VERSION}")
            vector = values["vector"]
            return cls(
                values["key"],
                values["options"],
                tuple(Digest(**each) for each in values["inputs"]),
                Survey(values["rows"], tuple(values["kept"])),
                Served(values["model"], values["fingerprint"], vector["dimensions"], vector["data_type"]),
            )
        except (ValueError, KeyError, TypeError) as fault:
            raise OutputError(f"_manifest.json cannot be read: {type(fault).__name__}") from None


def new_key() -> str:
    """Generate a key for a new job's digests."""
    return secrets.token_hex(16)


def check_options(before: Manifest, options: Options) -> None:
    """Refuse to resume with other options.

    Raises:
        OtherJob: some differ; the message names each.
    """
    now = options.named()
    names = [name for name in {**before.options, **now} if before.options.get(name) != now.get(name)]
    differ = [f"--{name} {_shown(before.options.get(name))}, not {_shown(now.get(name))}" for name in names]
    if differ:
        raise OtherJob(f"this output was started with {'; '.join(differ)}: use the same options, or another --output")


def check_inputs(before: Manifest, inputs: tuple[Digest, ...]) -> None:
    """Refuse to resume with other inputs.

    Raises:
        OtherJob: some differ; the message names each.
    """
    if len(inputs) != len(before.inputs):
        raise OtherJob(f"this output was started with {len(before.inputs)} inputs, not {len(inputs)}")
    differ = [new.input for old, new in zip(before.inputs, inputs, strict=True) if old.digest != new.digest]
    if differ:
        raise OtherJob(f"--input {', '.join(differ)} has changed since this output was started")


def check_served(before: Manifest, served: Served) -> None:
    """Refuse to resume with results that cannot be compared with the existing ones.

    Raises:
        OtherJob: the servers' results differ.
    """
    old = before.served
    if old != served:
        raise OtherJob(
            f"this output was started with the model {old.model} (fingerprint {old.fingerprint[:12]}); the server's "
            f"{served.model} (fingerprint {served.fingerprint[:12]}) makes different results"
        )


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if value is True else str(value)
