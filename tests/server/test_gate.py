"""The door to the readers' threads."""

import asyncio

from server.auth.clients import Client, Plan
from server.scheduling.fair_queue import FairGate
from server.types import Priority

FLOOD, POLITE = (Client(name, name, Plan(name)) for name in ("flood", "polite"))


async def passing(gate: FairGate, client: Client, order: list[str], priority: Priority = Priority.INTERACTIVE) -> None:
    async with gate.entered(client, priority):
        order.append(client.name)
        await asyncio.sleep(0)


async def test_a_flood_waits_behind_itself() -> None:
    gate, order = FairGate(1), list[str]()
    calls = [passing(gate, FLOOD, order) for _ in range(20)] + [passing(gate, POLITE, order)]
    await asyncio.gather(*calls)
    assert order.index("polite") <= 2
    assert len(order) == 21


async def test_no_more_are_in_than_there_are_places() -> None:
    gate, inside, most = FairGate(3), 0, 0

    async def visit() -> None:
        nonlocal inside, most
        async with gate.entered(POLITE, Priority.INTERACTIVE):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(visit() for _ in range(20)))
    assert most == 3


async def test_who_gives_up_waiting_takes_no_place_along() -> None:
    gate, order = FairGate(1), list[str]()
    async with gate.entered(FLOOD, Priority.INTERACTIVE):
        waiting = [asyncio.create_task(passing(gate, FLOOD, order)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.wait_for(passing(gate, POLITE, order), 1)
    assert order == ["polite"]


async def test_a_turn_that_comes_as_its_owner_leaves_is_passed_on() -> None:
    gate, order = FairGate(1), list[str]()
    await gate._enter(FLOOD, Priority.INTERACTIVE)
    leaving = asyncio.create_task(passing(gate, FLOOD, order))
    await asyncio.sleep(0)
    gate._leave()  # the turn is given
    leaving.cancel()  # and not taken
    await asyncio.gather(leaving, return_exceptions=True)
    await asyncio.wait_for(passing(gate, POLITE, order), 1)
    assert order == ["polite"]


async def test_bulk_is_slowed_and_not_starved() -> None:
    gate, order = FairGate(1), list[str]()
    bulk = [passing(gate, POLITE, order, Priority.BULK) for _ in range(5)]
    interactive = [passing(gate, FLOOD, order) for _ in range(50)]
    await asyncio.gather(*bulk, *interactive)
    assert 2 <= order[:40].count("polite") <= 5
