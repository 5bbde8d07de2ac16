"""Who is calling, and what they may use.

A *client* authenticates, belongs to one *tenant*, whose clients share cached entries and digests, and has one *plan*.
"""

from dataclasses import dataclass

from server.errors import PermissionDenied
from server.types import Priority


@dataclass(frozen=True, slots=True)
class Plan:
    """What each client of the plan may use; None means no limit.

    Attributes:
        weight: the client's share of a busy machine, relative to others' weights.
        tokens_per_minute: maximum processed tokens in any 60 seconds, cached ones at their price.
        requests_per_second: maximum rate of new calls; 0.1 is one in ten seconds.
        max_concurrent: maximum calls in progress.
        max_bytes_in_flight: maximum bytes of their requests and replies.
        priority: the highest priority that the client may request.
        models: names of the models that it may use; all if empty.
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
        """The priority that a client gets when it requests one."""
        return Priority.BULK if self.priority is Priority.BULK else priority


UNLIMITED = Plan("unlimited")


@dataclass(frozen=True, slots=True)
class Client:
    """An authenticated caller. Tenants share no cached entries and no digests."""

    name: str
    tenant: str
    plan: Plan = UNLIMITED

    def check_model(self, model: str) -> None:
        """Refuse a model that is outside the client's plan.

        Raises:
            PermissionDenied: the plan does not include it.
        """
        if not self.plan.allows(model):
            raise PermissionDenied(f"the plan {self.plan.name} does not include the model {model}")


ANONYMOUS = Client(name="anonymous", tenant="anonymous", plan=Plan("anonymous"))
"""A caller without credentials, unless the settings configure `anonymous`."""
