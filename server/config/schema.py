"""The settings, as one frozen tree. The tables of docs/configuration.md and `octavo config show` are generated from it.

`Settings()` has only defaults; `server.config.load.load` reads a file, the environment and command line options.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from server.config.folders import cache_home
from server.config.hub import SCHEME, HubModel
from server.config.values import (
    Address,
    Count,
    CountOrAuto,
    Folder,
    KeyRecord,
    MessageBytes,
    Name,
    Seconds,
    Storage,
    StorageUrl,
    Window,
    check_local,
    read_size,
    split_address,
)


class Section(BaseModel):
    """A table of settings: immutable, without unknown keys. Defaults are validated like values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read_sizes(cls, value: Any, info: ValidationInfo) -> Any:
        return read_size(value) if "bytes" in str(info.field_name) else value


class ServerSettings(Section):
    """The listeners of gRPC and HTTP, access to them, and the limits of a call."""

    tls_certificate: Folder | None = Field(
        default=None,
        description="PEM file with the server's certificate chain. With it and `tls_key`, all addresses except Unix "
        "sockets use TLS, and `listen` may contain any address.",
    )
    tls_key: Folder | None = Field(default=None, description="PEM file with the certificate's private key.")
    allow_plaintext_remote: bool = Field(
        default=False,
        description="Allow addresses of `server.listen` and `server.http_listen` that other machines can reach without "
        "encryption.",
    )
    allow_plaintext_credentials: bool = Field(
        default=False, description="Accept credentials sent unencrypted from another machine."
    )
    allow_anonymous_remote: bool = Field(
        default=False,
        description="Allow calls without credentials from other machines. From this machine they are always allowed, "
        "unless `clients.anonymous.disabled` is set.",
    )
    keys_file: Folder | None = Field(
        default=None,
        description="File with the clients' keys, managed by `octavo keys`; changes apply within a second. "
        "Unset: `$XDG_STATE_HOME/octavo/keys.json`.",
    )
    listen: tuple[Address, ...] = Field(
        default=("127.0.0.1:50051",),
        description="Addresses to serve on: `host:port`, `[::1]:port` or `unix:/path`. Port 0 selects a free port.",
    )
    http_listen: str = Field(
        default="",
        description='Address to serve HTTP on: `host:port`; port 0 selects a free port; "" disables it. With '
        "`tls_certificate`, it is HTTPS.",
    )
    http_cors_origins: tuple[str, ...] = Field(
        default=(), description='Origins whose pages may call over HTTP, such as `https://example.org`; `"*"`: any.'
    )
    http_token_ids: str = Field(
        default="",
        description="tiktoken's encoding of the token ids that OpenAI's clients may send in place of text, such as "
        '`cl100k_base`; "" refuses token ids. It needs `octavo[tiktoken]`.',
    )
    http_max_inputs: Count = Field(default=2048, description="Maximum texts of a call over HTTP.")
    max_document_bytes: MessageBytes = Field(
        default=16_000_000, description="Maximum UTF-8 bytes of a document, or of all documents of an Embed together."
    )
    max_reply_bytes: MessageBytes = Field(
        default=4_000_000,
        description="Maximum bytes of a unary reply; StreamSegments has no such limit. By default, gRPC clients refuse "
        "more than 4 MiB.",
    )
    max_documents: Count = Field(default=256, description="Maximum documents of an Embed or a Rank.")
    max_tasks: Count = Field(default=16, description="Maximum tasks of an Analyze or StreamSegments.")
    default_deadline_seconds: Seconds = Field(default=300.0, description="Deadline of calls whose client sets none.")
    drain_delay_seconds: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="When stopping, how long the server refuses new calls, so that load balancers notice, before it "
        "closes its ports.",
    )
    max_connection_age_seconds: Seconds = Field(
        default=3600.0, description="Age at which a connection is closed, so that its client reconnects."
    )
    stop_grace_seconds: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="When stopping, how long calls may take to finish.",
    )

    @field_validator("listen")
    @classmethod
    def _listen_is_local(cls, listen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not listen:
            raise ValueError("at least one address is required")
        for address in listen:
            if not info.data.get("tls_certificate"):
                check_local(address, "server.allow_plaintext_remote", info)
        return listen

    @field_validator("http_listen")
    @classmethod
    def _http_listen_is_local(cls, listen: str, info: ValidationInfo) -> str:
        if listen:
            split_address(listen)
            if not info.data.get("tls_certificate"):
                check_local(listen, "server.allow_plaintext_remote", info)
        return listen

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key must be set together")
        return self


class SegmentationSettings(Section):
    """How a model's documents are cut, unless a call overrides it."""

    policy: Literal["content", "sentence", "fixed"] = Field(
        default="content",
        description="`content` cuts so that an edit moves the fewest cuts, `sentence` at sentence ends, `fixed` by "
        "count.",
    )
    max_tokens: Count | None = Field(
        default=None,
        description="Maximum tokens that a segment owns; unset: as many as the model reads besides special tokens and "
        "prefix.",
    )
    min_tokens: Count | None = Field(
        default=None,
        description="Minimum tokens that a segment owns, except the last; unset: in proportion, 160 for 510.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_tokens and self.min_tokens and 2 * self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is more than half of max_tokens ({self.max_tokens})")
        return self


class ModelSettings(Section):
    """A model to serve; the first one is the default."""

    path: str = Field(
        min_length=1,
        description="A folder (containing a slash), the name of a folder in `$XDG_CACHE_HOME/octavo/models`, or "
        "`hf:ORG/NAME[@REVISION]`, as given to `octavo models add`.",
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="The model's name for clients; unset: the folder's name.",
    )
    scheme: Literal["auto", "int8", "bf16", "fp32"] = Field(
        default="auto", description="The number scheme; `auto` selects the fastest that is exact on this machine."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda:\d+)$",
        description="Device to run on; `auto`: a CUDA device if there is one.",
    )
    window: Window = Field(
        default=0,
        description="Half width of the attention window in tokens; 0 or `none`: full attention within a segment.",
    )
    pooling: Literal["mean", "cls"] | None = Field(
        default=None, description="How token states become a vector; unset: as in the model's folder."
    )
    query_prefix: str | None = Field(default=None, description="Prefix of queries; unset: as in the model's folder.")
    passage_prefix: str | None = Field(default=None, description="Prefix of passages; unset: as in the model's folder.")
    segmentation: SegmentationSettings = SegmentationSettings()

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _hub_model_is_named(cls, path: str) -> str:
        if path.startswith(SCHEME):
            HubModel.parse(path)
        return path

    @property
    def hub_model(self) -> HubModel | None:
        """The model on a hub, if the path names one."""
        return HubModel.parse(self.path) if self.path.startswith(SCHEME) else None

    @property
    def folder(self) -> Path:
        """The model's folder, which may not exist."""
        if self.hub_model:
            return self.hub_model.folder
        if "/" in self.path:
            return Path(self.path).expanduser()
        return cache_home() / "models" / self.path

    @property
    def served_name(self) -> str:
        """The model's name for clients."""
        return self.name or (self.hub_model.name if self.hub_model else self.folder.resolve().name)


class ComputeSettings(Section):
    """Use of the machine."""

    threads: CountOrAuto = Field(
        default=0, description="Cores to compute on; 0: as many as CPU affinity and the cgroup's quota allow."
    )
    isa: Literal["auto", "amx", "avx512", "avx_vnni", "avx2", "neon", "generic", "reference"] = Field(
        default="auto",
        description="Instruction set of 8-bit models on a CPU; auto: the fastest that the processor has. All give the "
        "same bits, except `reference`, which is plain PyTorch.",
    )
    streams: CountOrAuto = Field(default=0, description="Batches computed at the same time; 0: one per thread.")
    batch_tokens: CountOrAuto = Field(
        default=0,
        description="Maximum tokens, including special tokens, per run of the encoder; a segment is never split. "
        "0: 512 on a CPU, where more is no faster but makes others wait; 16,384 on CUDA.",
    )
    tokenizer_threads: Count = Field(
        default=2,
        description="Documents tokenised at the same time; bulk calls leave one of several places to interactive ones.",
    )
    in_flight_segments: Count = Field(default=32, description="Maximum segments of a call in progress.")


class CacheSettings(Section):
    """The layer cache on disk. Processes that share its folder must use the same values for its first three limits."""

    enabled: bool = Field(default=True, description="Use the layer cache.")
    dir: Folder = Field(
        default_factory=lambda: cache_home() / "cache",
        description="The cache's folder.",
        json_schema_extra={"default": "$XDG_CACHE_HOME/octavo/cache"},
    )
    size_limit_bytes: int = Field(
        default=4 << 30, ge=1 << 20, description="Maximum bytes on disk; the oldest entries are evicted first."
    )
    min_free_bytes: int = Field(
        default=1 << 30, ge=0, description="Bytes to keep free on the file system, by evicting entries."
    )
    time_to_live_seconds: Seconds = Field(default=30 * 86_400.0, description="Age at which an entry expires.")
    memory_bytes: int = Field(
        default=64 << 20, ge=0, description="Maximum bytes of entries in this process' memory; evicted by LRU."
    )
    results: bool = Field(
        default=True, description="Also store results of heads, which are small and all that a repeated call needs."
    )
    cuts: tuple[Count, ...] = Field(
        default=(),
        description="Layers after which states are stored, in addition to the last one and those where loaded models "
        "diverge.",
    )
    verify: float = Field(default=0.0, ge=0, le=1, description="Share of cached answers to recompute and compare.")
    secret_file: Folder | None = Field(
        default=None,
        description="File with the deployment's secret, the key of all digests of texts; created on the first start. "
        "Unset: `$XDG_STATE_HOME/octavo/secret`.",
    )


class MetricsSettings(Section):
    """The HTTP listener of `/metrics`, `/livez` and `/readyz`."""

    allow_remote: bool = Field(
        default=False, description="Allow a `metrics.listen` address that other machines can reach."
    )
    listen: str = Field(
        default="127.0.0.1:9464", description='`host:port`; port 0 selects a free port; "" disables the listener.'
    )

    @field_validator("listen")
    @classmethod
    def _listen_is_local(cls, listen: str, info: ValidationInfo) -> str:
        if listen:
            split_address(listen)
            check_local(listen, "metrics.allow_remote", info)
        return listen


class LogSettings(Section):
    """The log on standard error. It never contains a document's text."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The minimum level.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="`json`: one object per line; `console`: human-readable; `auto`: console on a terminal, else json.",
    )


class PlanSettings(Section):
    """Limits for each client of a plan. Two plans always exist: `default` and `anonymous`."""

    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="A client's share of a busy machine, relative to others' weights.",
    )
    tokens_per_minute: Annotated[int, Field(ge=1000)] | None = Field(
        default=None,
        description="Maximum processed tokens in any 60 seconds, cached ones at `limits.cached_token_price`; unset: "
        "unlimited.",
    )
    requests_per_second: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        default=None, description="Maximum rate of new calls; 0.1: one in ten seconds; unset: unlimited."
    )
    max_concurrent: Count | None = Field(
        default=None, description="Maximum calls of a client in progress; unset: unlimited."
    )
    max_bytes_in_flight: Count | None = Field(
        default=None, description="Maximum bytes of a client's requests and replies in progress; unset: unlimited."
    )
    priority: Literal["interactive", "bulk"] = Field(
        default="interactive", description="The highest priority class that its clients may request."
    )
    models: tuple[str, ...] = Field(default=(), description="Models that its clients may use; empty: all.")


class ClientSettings(Section):
    """A client that may call. `anonymous`, for calls without credentials, always exists."""

    tenant: Name | None = Field(
        default=None,
        description="Clients of one tenant share cached entries and digests; unset: a tenant of the client's own name.",
    )
    plan: Name | None = Field(default=None, description="Its plan; unset: `default`, and `anonymous` for `anonymous`.")
    keys: tuple[KeyRecord, ...] = Field(
        default=(), description="Records of keys, as printed by `octavo keys add --inline`, besides those in the file."
    )
    disabled: bool = Field(default=False, description="Refuse the client as if its keys did not exist.")


class LimitSettings(Section):
    """How limits are counted, and the limits of all clients together."""

    storage: Storage = Field(
        default=StorageUrl("memory"),
        description="Where tokens and requests are counted: `memory`, or `redis://…` (`rediss://…`, "
        "`redis+unix:///path`) if several servers share limits.",
        json_schema_extra={"default": "memory"},
    )
    when_storage_fails: Literal["open", "closed"] = Field(
        default="open",
        description="While Redis is unavailable: `open`: this server counts alone; `closed`: it refuses limited "
        "clients.",
    )
    cached_token_price: float = Field(
        default=0.02, gt=0, le=1, description="Price of a token for which no layer ran, in tokens."
    )
    max_concurrent: Count = Field(default=1024, description="Maximum calls of all clients in progress.")
    max_bulk_streams: Count = Field(
        default=16,
        description="Maximum ProcessDocuments streams of all clients; gRPC may hold a message of each in memory.",
    )
    max_bytes_in_flight: Count = Field(
        default=48 << 20,
        description="Maximum bytes of all clients' requests and replies in progress; memory holds each two or three "
        "times. Messages below 16 KiB always have room.",
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
            raise ValueError("at least one model is required")
        names = [model.served_name for model in models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two models are named {twice[0]!r}; rename one of them")
        return models

    @field_validator("limits")
    @classmethod
    def _limits_hold_a_document(cls, limits: LimitSettings, info: ValidationInfo) -> LimitSettings:
        server = info.data.get("server")
        if server and limits.max_bytes_in_flight < (least := server.max_document_bytes + 2 * server.max_reply_bytes):
            raise ValueError(
                f"max_bytes_in_flight is less than server.max_document_bytes and twice server.max_reply_bytes, {least}"
            )
        return limits

    @field_validator("plans")
    @classmethod
    def _plans_name_models(cls, plans: dict[str, PlanSettings], info: ValidationInfo) -> dict[str, PlanSettings]:
        served = {model.served_name for model in info.data.get("models", ())}
        for name, plan in plans.items():
            if served and (unknown := sorted({*plan.models} - served)):
                raise ValueError(f"{name}.models: unknown model {unknown[0]!r}; known models: {', '.join(served)}")
        return plans

    @field_validator("clients")
    @classmethod
    def _clients_name_plans(cls, clients: dict[str, ClientSettings], info: ValidationInfo) -> dict[str, ClientSettings]:
        plans = {"default", "anonymous", *info.data.get("plans", ())}
        for name, client in clients.items():
            if "plans" in info.data and client.plan and client.plan not in plans:
                raise ValueError(f"{name}.plan: unknown plan {client.plan!r}; known plans: {', '.join(sorted(plans))}")
            if name == "anonymous" and client.keys:
                raise ValueError("anonymous.keys: anonymous cannot have keys")
        return clients
