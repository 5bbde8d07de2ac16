"""The meters of all clients, made on first use."""

from server.auth.clients import Client
from server.config.schema import LimitSettings
from server.limits.budget import Budget
from server.limits.meter import Meter, Standing, Windows
from server.limits.windows import LocalWindows, Quota, Rate, SharedWindows
from server.telemetry.metrics import Metrics

MINUTE = 60


class Limiter:
    """Hands out what counts a client's tokens and requests."""

    def __init__(self, settings: LimitSettings, metrics: Metrics) -> None:
        url = settings.storage.get_secret_value()
        self._shared = None if url == "memory" else SharedWindows(url, metrics)
        self._windows = Windows(LocalWindows(), self._shared, fail_open=settings.when_storage_fails == "open")
        self._price = settings.cached_token_price
        self._metrics = metrics
        self._budgets: dict[str, Budget] = {}
        self._requests: dict[str, Meter | None] = {}

    async def close(self) -> None:
        """Leave the shared storage."""
        if self._shared:
            await self._shared.close()

    def budget(self, client: Client) -> Budget:
        """The client's tokens."""
        if client.name not in self._budgets:
            limit = client.plan.tokens_per_minute
            quota = Quota(f"tokens/{client.name}", Rate(limit, MINUTE)) if limit else None
            meter = self._meter(quota, client, "tokens_per_minute") if quota else None
            charged = self._metrics.charged_tokens.labels(client.name)
            self._budgets[client.name] = Budget(client, meter, charged.inc)
        return self._budgets[client.name]

    def requests(self, client: Client) -> Meter | None:
        """The client's calls; None: as many as it likes."""
        if client.name not in self._requests:
            limit = client.plan.requests_per_second
            quota = Quota(f"requests/{client.name}", Rate.a_second(limit)) if limit else None
            self._requests[client.name] = self._meter(quota, client, "requests_per_second") if quota else None
        return self._requests[client.name]

    def standing(self, client: Client) -> dict[str, Standing]:
        """What is left of the client's limited quotas: `requests` and `tokens`."""
        meters = {"requests": self.requests(client), "tokens": self.budget(client).meter}
        return {name: meter.standing for name, meter in meters.items() if meter}

    def price(self, computed: int, cached: int) -> float:
        """What tokens are charged at; cached ones are never free, since they cost look-ups and sending."""
        return computed + self._price * cached

    def _meter(self, quota: Quota, client: Client, setting: str) -> Meter:
        return Meter(quota, self._windows, f"client:{client.name}", setting)
