"""Where parts end follows from the input alone; the pool loses nothing."""

import threading

from octavo.batch.documents import Document
from octavo.batch.parts import OpenPart, Place, Share, Size, placed
from octavo.batch.pool import Hold, Pool, Waiting
from octavo.batch.survey import sample


def texts(*lengths: int) -> list[Document]:
    return [Document(str(i), "x" * length, ()) for i, length in enumerate(lengths)]


def places(documents: list[Document], rows: int, characters: int = 10**6) -> list[tuple[int, int, bool]]:
    return [(p.part, p.row, p.last) for p, _ in placed(documents, Size(rows, characters), None)]


def test_a_part_ends_at_its_rows_or_characters_and_with_the_input() -> None:
    assert places(texts(1, 1, 1, 1, 1), 2) == [(0, 0, False), (0, 1, True), (1, 0, False), (1, 1, True), (2, 0, True)]
    assert places(texts(5, 5, 1, 20, 1), 9, 10) == [
        (0, 0, False), (0, 1, True), (1, 0, False), (1, 1, True), (2, 0, True),
    ]  # fmt: skip
    assert places([], 2) == []


def test_a_sample_is_the_same_each_time_and_in_order() -> None:
    chosen = sample(1000, 10)
    assert chosen == sample(1000, 10)
    assert len(set(chosen)) == 10
    found = [document.id for _, document in placed(texts(*[1] * 1000), Size(3, 100), chosen)]
    assert found == [str(index) for index in chosen]
    assert list(sample(3, 10)) == [0, 1, 2]


def test_shares_tile_the_parts() -> None:
    shares = [Share(index, 3) for index in range(3)]
    assert all(sum(share.has(part) for share in shares) == 1 for part in range(10))


def test_a_part_is_complete_when_all_its_rows_have_come_in_any_order() -> None:
    part: OpenPart[str] = OpenPart()
    for row in range(3):
        part.expect(Place(0, row, last=row == 2))
    for row in (2, 0):
        part.put(row, str(row))
        assert not part.complete
    part.put(1, "1")
    assert part.complete
    assert part.records() == ["0", "1", "2"]


def test_what_a_server_holds_when_it_goes_is_given_to_the_next_in_order() -> None:
    pool, one, two = Pool(), Hold(), Hold()
    tasks = [Waiting(place, document) for place, document in placed(texts(1, 2, 3), Size(9, 99), None)]
    for task in tasks:
        pool.put(task)
    assert [pool.take(one), pool.take(one)] == tasks[:2]
    taken: list[Waiting | None] = []
    waiting = threading.Thread(target=lambda: taken.extend(pool.take(one) for _ in range(2)))
    waiting.start()  # takes the third, then waits in vain
    while tasks[2] not in one.tasks:
        pass
    pool.give_back(one)
    waiting.join(10)
    assert taken == [tasks[2], None]
    assert [pool.take(two) for _ in range(3)] == tasks


def test_what_was_refused_for_a_while_comes_back_after_it() -> None:
    pool, hold = Pool(), Hold()
    (task,) = (Waiting(place, document) for place, document in placed(texts(1), Size(9, 99), None))
    pool.put(task)
    assert pool.take(hold) is task
    pool.put_back(hold, task, 0.1)
    assert not hold.tasks
    assert pool.take(hold) is task
