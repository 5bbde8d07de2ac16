"""Who is calling."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever authenticated. A tenant shares no cached entry and no digest with another tenant."""

    name: str
    tenant: str


ANONYMOUS = Client(name="anonymous", tenant="anonymous")
