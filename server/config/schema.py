"""What can be set: one frozen tree, from which the documentation's table and `octavo config show` are generated.

`Settings()` is the defaults and reads nothing; `server.config.load.load` reads a file, the environment and flags.
"""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from server.config.folders import xdg_folder

UNIX = "unix:"
MAX_PORT = 65535
MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less its NUL


def cache_home() -> Path:
    """Return the folder of models and cached states: `$XDG_CACHE_HOME/octavo`, by default `~/.cache/octavo`."""
    return xdg_folder("XDG_CACHE_HOME", ".cache") / "octavo"


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port` into host and port; raise ValueError for anything else."""
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if match is None or int(match[3]) > MAX_PORT:
        raise ValueError(f"{address!r} is not an address: write host:port, [::1]:port or unix:/path")
    return match[1] or match[2], int(match[3])


def is_local(address: str) -> bool:
    """Tell whether only this machine can reach the address: a unix socket, a loopback IP address or `localhost`."""
    if address.startswith(UNIX):
        return True
    host, _ = split_address(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # what another name resolves to can change after the check


def _check_address(address: str) -> str:
    if not address.startswith(UNIX):
        split_address(address)
    elif not 1 <= len(os.fsencode(address.removeprefix(UNIX))) <= MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"the path of a unix socket has 1 to {MAX_SOCKET_PATH_BYTES} bytes")
    return address


def _check_local(address: str, allowed_by: str, info: ValidationInfo) -> None:
    if not (info.data.get(allowed_by) or is_local(address)):
        raise ValueError(
            f"{address} can be reached from other machines in plain text; set {allowed_by} = true to allow"
        )


def _check_key(text: str) -> str:
    if not re.fullmatch(r"[0-9a-z]{12}:[0-9a-f]{32}:[0-9a-f]{64}(:.+)?", text):
        raise ValueError("a key's record is ID:SALT:DIGEST or ID:SALT:DIGEST:EXPIRES")
    return text


def _read_size(value: Any) -> Any:
    """Read "4GB" or "1.5 GiB"; what is no size stays as it is."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    number, prefix, binary = match.groups()
    return round(float(number) * (1024 if binary else 1000) ** " kMGT".index(prefix.replace("K", "k") or " "))


class StorageUrl(SecretStr):
    """Where something is stored: shown without the password that its URL may hold."""

    def _display(self) -> str:
        return re.sub(r"//[^@/]*@", "//***@", self.get_secret_value())


def _check_storage(storage: StorageUrl) -> StorageUrl:
    if not re.fullmatch(r"memory|rediss?://\S+|redis\+unix:///\S+", storage.get_secret_value()):
        raise ValueError("write memory, redis://host:port/db, rediss://host:port/db or redis+unix:///path?db=0")
    return storage


Address = Annotated[str, AfterValidator(_check_address)]
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)B")
MessageBytes = Annotated[int, Field(ge=1, le=(1 << 31) - 1 - (1 << 20))]  # gRPC counts in int32; 1 MiB for the rest
Count = Annotated[int, Field(ge=1)]
CountOrAuto = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # of what a table is called: lower case, no dots
# Half width in tokens. "none" reads better in a file than 0 does.
Window = Annotated[int, Field(ge=0), BeforeValidator(lambda value: 0 if value == "none" else value)]


class Section(BaseModel):
    """A table of settings: immutable, every key known, defaults held to the same rules as values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read_sizes(cls, value: Any, info: ValidationInfo) -> Any:
        return _read_size(value) if "bytes" in str(info.field_name) else value


class ServerSettings(Section):
    """The gRPC listener, whom it lets in, and the bounds of a call."""

    tls_certificate: Folder | None = Field(
        default=None,
        description="File with the server's certificate chain in PEM. With it and `tls_key` all addresses but unix "
        "sockets speak TLS, and `listen` may name any.",
    )
    tls_key: Folder | None = Field(default=None, description="File with the certificate's private key in PEM.")
    allow_plaintext_remote: bool = Field(
        default=False, description="Let `server.listen` name addresses that other machines reach, without encryption."
    )
    allow_plaintext_credentials: bool = Field(
        default=False, description="Take credentials that came from another machine without encryption."
    )
    allow_anonymous_remote: bool = Field(
        default=False,
        description="Let other machines call without credentials, as loopback and unix sockets always may unless "
        "`clients.anonymous.disabled` is set.",
    )
    keys_file: Folder | None = Field(
        default=None,
        description="Clients' keys, as `octavo keys` keeps them; changes apply within a second. "
        "Unset: `$XDG_STATE_HOME/octavo/keys.json`.",
    )
    listen: tuple[Address, ...] = Field(
        default=("127.0.0.1:50051",),
        description="Addresses to serve on: `host:port`, `[::1]:port` or `unix:/path`. Port 0 takes a free one.",
    )
    max_document_bytes: MessageBytes = Field(
        default=16_000_000, description="Most bytes of UTF-8 in a document, or in all documents of an Embed together."
    )
    max_reply_bytes: MessageBytes = Field(
        default=4_000_000,
        description="Most bytes of a unary reply; StreamSegments has no such bound. Clients refuse 4 MiB.",
    )
    max_documents: Count = Field(default=256, description="Most documents of an Embed.")
    max_tasks: Count = Field(default=16, description="Most tasks of an Analyze or a StreamSegments.")
    default_deadline_seconds: Seconds = Field(
        default=300.0, description="Time a call has when its client set no deadline."
    )
    drain_delay_seconds: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="Once told to stop, the server refuses new calls for so long, for balancers to notice, "
        "before it closes its ports.",
    )
    max_connection_age_seconds: Seconds = Field(
        default=3600.0, description="Age at which a connection is closed for its client to make a new one."
    )
    stop_grace_seconds: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="Time that calls have to finish once the server is told to stop.",
    )

    @field_validator("listen")
    @classmethod
    def _listen_is_local(cls, listen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not listen:
            raise ValueError("name at least one address")
        for address in listen:
            if not info.data.get("tls_certificate"):
                _check_local(address, "allow_plaintext_remote", info)
        return listen

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class SegmentationSettings(Section):
    """Where a model's documents are cut, unless a call says otherwise."""

    policy: Literal["content", "sentence", "fixed"] = Field(
        default="content",
        description="`content` cuts where an edit moves fewest cuts, `sentence` at ends, `fixed` by count.",
    )
    max_tokens: Count | None = Field(
        default=None,
        description="Most tokens that a segment owns; unset: as many as the model reads beside its own tokens.",
    )
    min_tokens: Count | None = Field(
        default=None,
        description="Fewest tokens that a segment owns, but for the last; unset: 160 of 510, in proportion.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_tokens and self.min_tokens and 2 * self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is over half of max_tokens ({self.max_tokens})")
        return self


class ModelSettings(Section):
    """A model that is served; the first of them is the default one."""

    path: str = Field(
        min_length=1,
        description="A folder (with a slash in it), or a name to be looked up in `$XDG_CACHE_HOME/octavo/models`.",
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="What clients call it; unset: the folder's name.",
    )
    scheme: Literal["auto", "int8", "bf16", "fp32"] = Field(
        default="auto", description="The number scheme; `auto` takes the fastest that is exact on this machine."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda:\d+)$",
        description="Where it runs; `auto`: a CUDA device if there is one.",
    )
    window: Window = Field(
        default=0,
        description="Half width of the attention in tokens; 0 or `none`: each token attends to its whole segment.",
    )
    pooling: Literal["mean", "cls"] | None = Field(
        default=None, description="How a segment's states become its vector; unset: as the model's folder says."
    )
    query_prefix: str | None = Field(
        default=None, description="Put before each query; unset: as the model's folder says."
    )
    passage_prefix: str | None = Field(
        default=None, description="Put before each passage; unset: as the model's folder says."
    )
    segmentation: SegmentationSettings = SegmentationSettings()

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @property
    def folder(self) -> Path:
        """Where the model lies; it need not exist."""
        if "/" in self.path:
            return Path(self.path).expanduser()
        return cache_home() / "models" / self.path

    @property
    def served_name(self) -> str:
        """What clients call the model."""
        return self.name or self.folder.resolve().name


class ComputeSettings(Section):
    """How the machine is used."""

    threads: CountOrAuto = Field(
        default=0, description="Cores that compute; 0: what the process' CPU affinity and its cgroup's quota grant."
    )
    streams: CountOrAuto = Field(default=0, description="Batches that are computed at the same time; 0: one a thread.")
    batch_tokens: CountOrAuto = Field(
        default=0,
        description="Most tokens, with specials, that one run of the encoder reads; a segment is never parted. "
        "0: 512 on a CPU, where more is no faster and makes others wait, 16,384 on CUDA.",
    )
    tokenizer_threads: Count = Field(default=2, description="Documents that are tokenised at the same time.")
    in_flight_segments: Count = Field(
        default=32, description="Segments that a call may have between cutting and reply."
    )


class CacheSettings(Section):
    """The layer cache on disk. Processes that share its folder must agree on its first three bounds."""

    enabled: bool = Field(default=True, description="Keep what was computed, and look there first.")
    dir: Folder = Field(
        default_factory=lambda: cache_home() / "cache",
        description="The cache's folder.",
        json_schema_extra={"default": "$XDG_CACHE_HOME/octavo/cache"},
    )
    size_limit_bytes: int = Field(
        default=4 << 30, ge=1 << 20, description="Most bytes on disk; the oldest entries leave first."
    )
    min_free_bytes: int = Field(
        default=1 << 30, ge=0, description="What the cache leaves free of its file system, by dropping entries."
    )
    time_to_live_seconds: Seconds = Field(default=30 * 86_400.0, description="Age at which an entry expires.")
    memory_bytes: int = Field(
        default=64 << 20, ge=0, description="Most bytes of entries in this process' memory, most recently used first."
    )
    results: bool = Field(
        default=True, description="Keep what heads made of segments: small, and all that a repeat needs."
    )
    cuts: tuple[Count, ...] = Field(
        default=(),
        description="Layers after which states are kept, besides the last one and those where loaded models part.",
    )
    verify: float = Field(
        default=0.0, ge=0, le=1, description="Share of cached answers that is computed again and compared."
    )
    secret_file: Folder | None = Field(
        default=None,
        description="The deployment's secret, which keys every digest of a text; made on the first start. "
        "Unset: `$XDG_STATE_HOME/octavo/secret`.",
    )


class MetricsSettings(Section):
    """The HTTP listener of `/metrics`, `/livez` and `/readyz`."""

    allow_remote: bool = Field(
        default=False, description="Let `metrics.listen` name an address that other machines reach."
    )
    listen: str = Field(
        default="127.0.0.1:9464", description='`host:port`; port 0 takes a free one; "" listens nowhere.'
    )

    @field_validator("listen")
    @classmethod
    def _listen_is_local(cls, listen: str, info: ValidationInfo) -> str:
        if listen:
            split_address(listen)
            _check_local(listen, "allow_remote", info)
        return listen


class LogSettings(Section):
    """What the server tells on standard error. Never a document's text."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is told.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="`json`: one object a line; `console`: for people; `auto`: console when a terminal looks on.",
    )


class PlanSettings(Section):
    """What each client of a plan may have; two plans exist without being named: `default` and `anonymous`."""

    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Share of a busy machine that a client gets, relative to others' weights.",
    )
    tokens_per_minute: Annotated[int, Field(ge=1000)] | None = Field(
        default=None,
        description="Most processed tokens in any 60 seconds, cached ones at `limits.cached_token_price`; unset: all.",
    )
    requests_per_second: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        default=None, description="Most calls begun a second; 0.1: one in ten seconds; unset: all."
    )
    max_concurrent: Count | None = Field(
        default=None, description="Most calls of a client that are being answered; unset: all."
    )
    max_bytes_in_flight: Count | None = Field(
        default=None, description="Most bytes of a client's requests and replies that are being answered; unset: all."
    )
    priority: Literal["interactive", "bulk"] = Field(
        default="interactive", description="The best class that its clients may ask for."
    )
    models: tuple[str, ...] = Field(default=(), description="Models that its clients may use; empty: all.")


class ClientSettings(Section):
    """Who may call. `anonymous` is whoever shows no credentials; it exists without being named."""

    tenant: Name | None = Field(
        default=None,
        description="Whose cached entries and digests the client shares; unset: nobody's, a tenant of its own name.",
    )
    plan: Name | None = Field(
        default=None, description="What it may have; unset: the plan `default`, of `anonymous` the plan `anonymous`."
    )
    keys: tuple[Annotated[str, AfterValidator(_check_key)], ...] = Field(
        default=(), description="Digests of keys, as `octavo keys add --inline` prints them, beside those of the file."
    )
    disabled: bool = Field(default=False, description="Refuse it as if its keys did not exist.")


class LimitSettings(Section):
    """How limits are counted, and the bounds that all clients share."""

    storage: Annotated[StorageUrl, AfterValidator(_check_storage)] = Field(
        default=StorageUrl("memory"),
        description="Where tokens and requests are counted: `memory`, or `redis://…` (`rediss://…`, "
        "`redis+unix:///path`) when several servers share their clients' limits.",
        json_schema_extra={"default": "memory"},
    )
    when_storage_fails: Literal["open", "closed"] = Field(
        default="open",
        description="`open`: this server counts alone until Redis is back; `closed`: limited clients are refused.",
    )
    cached_token_price: float = Field(
        default=0.02, gt=0, le=1, description="What a token costs for which no layer ran, in tokens."
    )
    max_concurrent: Count = Field(default=1024, description="Most calls of all clients that are being answered.")
    max_bulk_streams: Count = Field(
        default=16,
        description="Most ProcessDocuments streams of all clients; gRPC may hold a message of each in memory.",
    )
    max_bytes_in_flight: Count = Field(
        default=48 << 20,
        description="Most bytes of all clients' requests and replies that are being answered; memory holds each two "
        "or three times. What is below 16 KiB always has room.",
    )


class Settings(Section):
    """All settings of a server."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    models: tuple[ModelSettings, ...] = (ModelSettings(path="all-MiniLM-L6-v2"),)
    plans: dict[Name, PlanSettings] = Field(default_factory=dict)
    clients: dict[Name, ClientSettings] = Field(default_factory=dict)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    compute: ComputeSettings = Field(default_factory=ComputeSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        if not models:
            raise ValueError("name at least one model")
        names = [model.served_name for model in models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two models are called {twice[0]!r}; give one of them another name")
        return models

    @field_validator("limits")
    @classmethod
    def _limits_hold_a_document(cls, limits: LimitSettings, info: ValidationInfo) -> LimitSettings:
        server = info.data.get("server")
        if server and limits.max_bytes_in_flight < server.max_document_bytes:
            raise ValueError(f"max_bytes_in_flight is less than server.max_document_bytes, {server.max_document_bytes}")
        return limits

    @field_validator("plans")
    @classmethod
    def _plans_name_models(cls, plans: dict[str, PlanSettings], info: ValidationInfo) -> dict[str, PlanSettings]:
        served = {model.served_name for model in info.data.get("models", ())}
        for name, plan in plans.items():
            if served and (unknown := sorted({*plan.models} - served)):
                raise ValueError(f"{name}.models: no model is called {unknown[0]!r}; there are {', '.join(served)}")
        return plans

    @field_validator("clients")
    @classmethod
    def _clients_name_plans(cls, clients: dict[str, ClientSettings], info: ValidationInfo) -> dict[str, ClientSettings]:
        plans = {"default", "anonymous", *info.data.get("plans", ())}
        for name, client in clients.items():
            if "plans" in info.data and client.plan and client.plan not in plans:
                raise ValueError(
                    f"{name}.plan: no plan is called {client.plan!r}; there are {', '.join(sorted(plans))}"
                )
            if name == "anonymous" and client.keys:
                raise ValueError("anonymous.keys: whoever shows a key is not anonymous")
        return clients
