"""What a client may use: requests before their text is parsed, tokens when they are released to be computed.

admission.py   stage one: calls, bytes and requests a second, of each client and of all
budget.py      stage two: the tokens of a client
meter.py       how much of a quota is left; whole units are bought from windows
windows.py     moving windows, in memory or shared through Redis
limiter.py     the meters of all clients
gate.py        what every call passes: who calls, and stage one
"""

from server.limits.admission import Admission, Slot
from server.limits.arrivals import Arrivals
from server.limits.budget import Budget
from server.limits.gate import Context, Gate
from server.limits.limiter import Limiter

__all__ = ["Admission", "Arrivals", "Budget", "Context", "Gate", "Limiter", "Slot"]
