"""The models that are served, by name."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import chunking
from chunking import Cutting, Tokenizer
from encoder.folder import HeadKind, ModelFolder
from server.auth.clients import Client
from server.errors import InvalidCall, UnknownModel
from server.inference.tasks import EmbedTask, Task
from server.types import PoolingName, Trained

if TYPE_CHECKING:
    from server.inference.runner import Runner

ANY = ("embed", "rank")
"""Kinds of tasks, as named in the contract, that every model supports."""

TASKS: dict[HeadKind, tuple[str, ...]] = {
    "tokens": ("classify_tokens", "redact"),
    "sequence": ("classify",),
    "vocabulary": ("embed_sparse",),
}
"""Those for which a head is needed."""

CROSS_ENCODE = "ranking with a cross-encoder"
"""What a model must support for the task rank with a cross-encoder."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A trunk or a head on another model's, with its serving configuration: the defaults of a call.

    Attributes:
        digest: hexadecimal, of weights as executed, configuration and tokenizer.
        prefixes: by input type; "" is that of a call that names none.
        budget: maximum tokens that a segment may own.
        cuts: layers after which states are kept, ascending; the last one is the model's last.
        head: names the runner's head that is the model's, if it has one.
        trunk: the model whose layers run; None: its own.
    """

    name: str
    digest: str
    folder: ModelFolder
    runner: "Runner"
    tokenizer: Tokenizer
    prefixes: dict[str, str]
    pooling: PoolingName
    normalize: bool
    cutting: Cutting
    budget: int
    window: int
    cuts: tuple[int, ...]
    head: Trained | None = None
    trunk: "ServedModel | None" = None

    @property
    def version(self) -> str:
        """The part after @ in name@version: as the folder declares it, else the digest's beginning."""
        return self.folder.version or self.digest[:12]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The kinds of tasks that it supports."""
        return (*ANY, *(TASKS[self.folder.head.kind] if self.folder.head and self.head else ()))

    @property
    def is_cross_encoder(self) -> bool:
        """Whether its head scores pairs of a query and a passage."""
        return self.head is not None and self.trunk is None and self.runner.encoder.architecture.pairs

    def supports(self, kind: str) -> bool:
        """Whether it supports a kind of task, or CROSS_ENCODE."""
        return kind in self.tasks or (kind == CROSS_ENCODE and self.is_cross_encoder)

    def embed_task(self, name: str = "embed") -> EmbedTask:
        """The task of a call without options."""
        return EmbedTask(name, self.pooling, self.normalize, self.runner.encoder.hidden)

    def fingerprint(self, cutting: Cutting, window: int, tasks: Iterable[Task[Any]]) -> str:
        """Digest of everything that decides whether two vectors may share an index, as effective for a call.

        The input type is left out: queries are meant to be compared with passages.
        """
        facts = (
            f"octavo {chunking.FORMAT_VERSION}",
            self.digest,
            self.runner.encoder.digest,  # of the tensors as executed
            self.runner.encoder.scheme,
            self.runner.encoder.arithmetic,
            *(f"{kind}={prefix}" for kind, prefix in sorted(self.prefixes.items())),
            f"{cutting.policy} {cutting.min_tokens} {cutting.max_tokens}",
            f"window {window}",
            *sorted({task.identity for task in tasks}),
        )
        digest = hashlib.blake2b(digest_size=16)
        for fact in facts:
            digest.update(b"%d:" % len(fact.encode()) + fact.encode())
        return digest.hexdigest()

    @property
    def default_fingerprint(self) -> str:
        """The fingerprint of a call without options."""
        return self.fingerprint(self.cutting, self.window, [self.embed_task()])


class Catalogue:
    """The served models; the first one is the default."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def default(self) -> ServedModel:
        """The model of a call that names none."""
        return next(iter(self._models.values()))

    def resolve(self, reference: str, client: Client) -> ServedModel:
        """The model of a reference `name` or `name@version`; an empty one is the default.

        Raises:
            UnknownModel: no model of that name and version is served.
            PermissionDenied: the client's plan does not include it.
        """
        name, _, version = reference.partition("@")
        model = self._models.get(name) if reference else self.default
        if model is None:
            allowed = ", ".join(sorted(filter(client.plan.allows, self._models)))
            raise UnknownModel(f"no model of that name is served; served are: {allowed}")
        client.check_model(model.name)
        if version and version != model.version:
            raise UnknownModel(f"{model.name} is served in version {model.version}")
        return model

    def for_task(self, kind: str, reference: str, preferred: ServedModel, client: Client) -> ServedModel:
        """The model for a kind of task: the one that is named, else the preferred one, else the first that supports it.

        Raises:
            UnknownModel: no served model supports it.
            UnknownModel, PermissionDenied: as `resolve`.
        """
        model = self.resolve(reference, client) if reference else preferred
        able: list[ServedModel] = [model] if reference else [model, *self]
        chosen = next((each for each in able if each.supports(kind) and client.plan.allows(each.name)), None)
        if chosen is None:
            which = f"{model.name} does" if reference else "the served models do"
            raise UnknownModel(f"{which} not support {kind}")
        return chosen


def least_tokens(max_tokens: int) -> int:
    """The minimum tokens of a segment when only the maximum is set, in the proportion of chunking's defaults."""
    default = Cutting()
    return max(1, max_tokens * default.min_tokens // default.max_tokens)


def fitted(cutting: Cutting, most: int) -> Cutting:
    """The cutting with segments that own at most so many tokens."""
    if cutting.max_tokens <= most:
        return cutting
    return Cutting(cutting.policy, most, min(cutting.min_tokens, least_tokens(most)))


def window_of(call_window: int | None, model: ServedModel) -> int:
    """The window of a call, by default the model's; 0 if it covers a whole segment."""
    window = model.window if call_window is None else call_window
    if window < 0:
        raise InvalidCall("options.window", "a window is a number of tokens, 0 for none")
    return window if window < model.runner.encoder.max_tokens - 1 else 0
