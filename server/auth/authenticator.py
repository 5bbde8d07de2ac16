"""Who is calling: from credentials, or their absence, to a client.

A refusal does not tell why: an unknown id, a wrong secret, an expired key and a disabled client give the same message
and take the same time.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from server.auth.clients import ANONYMOUS, Client, Plan
from server.auth.keys import (
    FileState,
    Key,
    KeysError,
    default_keys_path,
    read_keys_and_state,
    split_token,
    state_of,
)
from server.config.schema import ClientSettings, PlanSettings, ServerSettings, Settings
from server.errors import StartError, Unauthenticated
from server.types import Priority

LOOK_SECONDS = 1.0  # between checks of the keys file

log = structlog.get_logger(__name__)

NOBODY = Key.make()[0]  # compared with unknown ids; nobody has its secret


@dataclass(frozen=True, slots=True)
class Caller:
    """What a connection tells about its caller.

    Attributes:
        authorization: the values of that header.
        local: the connection comes from this machine.
        encrypted: the connection is encrypted.
    """

    authorization: tuple[str, ...] = field(repr=False)
    local: bool
    encrypted: bool


class Authenticator:
    """All clients and their keys."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys file.

        Raises:
            StartError: the file or a key in the settings cannot be used.
        """
        self._settings: ServerSettings = settings.server
        self._clients = clients_of(settings)
        try:
            inline = inline_keys(settings.clients)
            self._keys = Keys(settings.server.keys_file or default_keys_path(), inline, clock)
        except KeysError as error:
            raise StartError(f"keys: {error}") from None

    def identify(self, caller: Caller) -> Client:
        """The client that calls.

        Raises:
            Unauthenticated: credentials are missing or not valid.
        """
        if not caller.authorization:
            return self._anonymous(caller)
        if not (caller.encrypted or caller.local or self._settings.allow_plaintext_credentials):
            raise Unauthenticated("credentials came without encryption, where others can read them: use TLS")
        scheme, _, token = caller.authorization[0].partition(" ")
        parts = split_token(token.strip()) if scheme.lower() == "bearer" else None
        identifier, secret = parts or ("", b"")
        key, name = self._keys.find(identifier)
        client = self._clients.get(name)
        known = key.matches(secret) and not key.expired(datetime.now(UTC))
        if not known or client is None or len(caller.authorization) > 1:
            raise Unauthenticated("the credentials are not valid")
        return client

    def _anonymous(self, caller: Caller) -> Client:
        client = self._clients.get(ANONYMOUS.name)
        if client is None or not (caller.local or self._settings.allow_anonymous_remote):
            raise Unauthenticated("credentials are needed: send authorization: Bearer oct_...")
        return client


class Keys:
    """The keys of the settings and of a file, which is read again when it changes.

    A file that does not exist has no keys. While a file cannot be read or parsed, the keys of the last successful read
    stay valid, so that a slip does not lock everybody out, and each check tries again.
    """

    def __init__(self, path: Path, inline: Mapping[Key, str], clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._inline = {key.id: (key, client) for key, client in inline.items()}
        self._looked = clock()
        self._fault = ""
        self._kept, self._state = self._read()

    def find(self, identifier: str) -> tuple[Key, str]:
        """The key of an id and its client's name; for an unknown id, a key that no secret matches."""
        if self._clock() >= self._looked + LOOK_SECONDS:
            self._looked = self._clock()
            if self._state is None or self._state != self._look():
                self._renew()
        return self._kept.get(identifier) or self._inline.get(identifier) or (NOBODY, "")

    def _renew(self) -> None:
        self._state = None  # until a read succeeds
        try:
            kept, self._state = self._read()
        except KeysError as error:
            if str(error) != self._fault:
                self._fault = str(error)
                log.error("keys not read", reason=self._fault)  # noqa: TRY400 - no traceback: the reason is enough
            return
        if self._fault or kept != self._kept:
            log.info("keys read", keys=len(kept))
        self._kept, self._fault = kept, ""

    def _read(self) -> tuple[dict[str, tuple[Key, str]], FileState | None]:
        keys, state = read_keys_and_state(self._path)
        return {kept.key.id: (kept.key, kept.client) for kept in keys}, state

    def _look(self) -> FileState | None:
        try:
            return state_of(self._path.stat())
        except OSError:
            return None


def inline_keys(clients: Mapping[str, ClientSettings]) -> dict[Key, str]:
    """The keys of the settings, and the name of each one's client.

    Raises:
        KeysError: one is not a key; the message names the setting.
    """
    keys = {}
    for name, client in clients.items():
        for index, text in enumerate(client.keys):
            try:
                keys[Key.parse(text)] = name
            except KeysError as error:
                raise KeysError(f"clients.{name}.keys[{index}]: {error}") from None
    return keys


def clients_of(settings: Settings) -> dict[str, Client]:
    """The clients that may call, by name; the anonymous one among them unless it is disabled."""
    configured = settings.clients
    unlimited = {name: PlanSettings() for name in ("default", ANONYMOUS.plan.name)}
    plans = {name: plan_of(name, plan) for name, plan in (unlimited | settings.plans).items()}
    clients = {
        name: Client(
            name,
            client.tenant or name,
            plans[client.plan or (ANONYMOUS.plan.name if name == ANONYMOUS.name else "default")],
        )
        for name, client in configured.items()
        if not client.disabled
    }
    if ANONYMOUS.name not in configured:
        clients[ANONYMOUS.name] = replace(ANONYMOUS, plan=plans[ANONYMOUS.plan.name])
    return clients


def plan_of(name: str, settings: PlanSettings) -> Plan:
    """A plan as it was configured."""
    return Plan(
        name,
        weight=settings.weight,
        tokens_per_minute=settings.tokens_per_minute,
        requests_per_second=settings.requests_per_second,
        max_concurrent=settings.max_concurrent,
        max_bytes_in_flight=settings.max_bytes_in_flight,
        priority=Priority(settings.priority),
        models=frozenset(settings.models),
    )
