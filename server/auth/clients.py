"""Who is calling, and what they may have.

A *client* authenticates, belongs to one *tenant*, with whom it shares cached entries and digests, and has one *plan*.
"""

from dataclasses import dataclass

from server.errors import PermissionDenied
from server.types import Priority


@dataclass(frozen=True, slots=True)
class Plan:
    """What each client of the plan may have; None is without limit.

    Attributes:
        weight: the client's share of a busy machine, relative to others' weights.
        tokens_per_minute: most processed tokens in any 60 seconds, cached ones at their price.
        requests_per_second: most calls begun; below 1, one call in so many seconds.
        max_concurrent: most calls that are being answered.
        max_bytes_in_flight: most bytes of their requests.
        priority: the best class that the client may ask for.
        models: names of those that it may use; empty: all.
    """

    name: str
    weight: float = 1.0
    tokens_per_minute: int | None = None
    requests_per_second: float | None = None
    max_concurrent: int | None = None
    max_bytes_in_flight: int | None = None
    priority: Priority = Priority.INTERACTIVE
    models: frozenset[str] = frozenset()

    def allows(self, model: str) -> bool:
        """Whether the plan's clients may use a model."""
        return not self.models or model in self.models

    def cap(self, priority: Priority) -> Priority:
        """The class that a client gets who asks for one."""
        return Priority.BULK if self.priority is Priority.BULK else priority


UNLIMITED = Plan("unlimited")


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever authenticated. A tenant shares no cached entry and no digest with another tenant."""

    name: str
    tenant: str
    plan: Plan = UNLIMITED

    def check_model(self, model: str) -> None:
        """Refuse a model that is outside the client's plan.

        Raises:
            PermissionDenied: it is.
        """
        if not self.plan.allows(model):
            raise PermissionDenied(f"the plan {self.plan.name} does not include the model {model}")


ANONYMOUS = Client(name="anonymous", tenant="anonymous", plan=Plan("anonymous"))
"""Whoever shows no credentials, until settings say more of them."""
