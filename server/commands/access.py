"""The checks of `octavo doctor` for certificates, keys and Redis."""

import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.auth.authenticator import clients_of, inline_keys
from server.auth.clients import ANONYMOUS
from server.auth.keys import KeysError, default_keys_path, read_keys
from server.commands.finding import Finding
from server.config.schema import LimitSettings, Settings
from server.config.values import is_local
from server.errors import StartError

SOON_DAYS = 21  # automatic renewal should have replaced a certificate that expires sooner
REDIS_SECONDS = 2.0  # timeout, four times that of the server


def certificate(chain: Path | None, key: Path | None) -> Iterator[Finding]:
    """Test the certificate with a TLS handshake in memory, with a client that trusts it."""
    from server.rpc.listener import credentials_of  # noqa: PLC0415 - loads the whole server

    if chain is None or key is None:
        return
    try:
        credentials_of(chain, key)
    except StartError as error:
        yield Finding("fail", "tls", str(error))
        return
    try:
        shown = shake_hands(chain, key)
    except ssl.SSLError as error:
        yield Finding(
            "warn", "tls", f"{chain}: clients will refuse it: {getattr(error, 'verify_message', error.reason)}"
        )
        return
    names = ", ".join(value for _, value in shown.get("subjectAltName", ()))
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
    if not names:
        yield Finding("warn", "tls", f"{chain}: clients will refuse it: it has no subject alternative name")
    days = (ends - datetime.now(UTC)).days
    says = f"{chain} for {names or 'no name'} is valid until {ends:%Y-%m-%d}"
    yield Finding("ok", "tls", says) if days >= SOON_DAYS else Finding("warn", "tls", f"{says}, for {days} more days")


def shake_hands(chain: Path, key: Path) -> dict[str, Any]:
    """The certificate as seen by a client that trusts it regardless of its issuer.

    Raises:
        ssl.SSLError: the client refuses it: it is expired, not yet valid, or not for servers.
    """
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(chain, key)
    calling.load_verify_locations(chain)
    calling.check_hostname = False
    calling.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the issuer need not be in the file
    server = serving.wrap_bio(there, back, server_side=True)
    client = calling.wrap_bio(back, there)
    for side in (client, server, client):  # hello; certificate; answer
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return dict(client.getpeercert() or {})


def keys(settings: Settings) -> Iterator[Finding]:
    """Count valid keys and report those that are refused."""
    path = settings.server.keys_file or default_keys_path()
    try:
        kept = [(each.key, each.client) for each in read_keys(path)]
        inline = list(inline_keys(settings.clients).items())
    except KeysError as error:
        yield Finding("fail", "keys", str(error))
        return
    clients, now = clients_of(settings), datetime.now(UTC)
    found = kept + inline
    good = [(key, name) for key, name in found if name in clients and not key.expired(now)]
    strange = sorted({name for _, name in found if name not in clients})
    yield Finding("ok", "keys", f"{len(good)} valid, of {len({name for _, name in good})} clients; {path}")
    if expired := sum(key.expired(now) for key, _ in found):
        yield Finding("note", "keys", f"{expired} expired")
    if strange:
        yield Finding(
            "warn", "keys", f"refused, because these clients do not exist or are disabled: {', '.join(strange)}"
        )
    yield from strangers(settings, has_keys=bool(good))


def strangers(settings: Settings, *, has_keys: bool) -> Iterator[Finding]:
    """Report who is shut out or let in by the settings, perhaps unintentionally."""
    server = settings.server
    remote = [address for address in server.listen if not is_local(address)]
    anonymous = ANONYMOUS.name in clients_of(settings)
    if not has_keys and not anonymous:
        yield Finding("warn", "clients", "no client can call: there is no valid key, and anonymous is disabled")
    elif remote and not has_keys and not server.allow_anonymous_remote:
        yield Finding("warn", "clients", f"no other machine can call {remote[0]}: there is no valid key")
    if remote and anonymous and server.allow_anonymous_remote:
        yield Finding("note", "clients", f"anyone who can reach {remote[0]} may call without a key")
    if remote and not server.tls_certificate and server.allow_plaintext_credentials:
        yield Finding("warn", "clients", f"keys sent to {remote[0]} can be read by others: there is no TLS")


def redis(settings: LimitSettings) -> Iterator[Finding]:
    """Check that Redis answers."""
    url, shown = settings.storage.get_secret_value(), str(settings.storage)
    if url == "memory":
        return
    from redis import Redis, RedisError  # noqa: PLC0415 - only if Redis is used
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    without = (
        "each server would count alone" if settings.when_storage_fails == "open" else "limited clients would be refused"
    )
    try:
        with Redis.from_url(
            url.replace("redis+unix://", "unix://"),
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as connection:
            connection.ping()
    except (RedisError, OSError, ValueError) as error:
        yield Finding("warn", "redis", f"{shown} does not answer ({type(error).__name__}): {without}")
        return
    yield Finding("ok", "redis", f"{shown} answers")
