"""Passes side by side: the same answers, the same errors, and nothing left running."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
import torch

from hhchat.model import lanes
from hhchat.model.lanes import side_by_side
from hhchat.model.preference import in_groups
from hhchat.model.rows import by_length

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_each_work_is_done_once_by_one_of_two_threads_and_answers_come_in_order():
    meet = threading.Barrier(2, timeout=20)
    where: list[tuple[int, int]] = []

    def work(i: int) -> int:
        if i < 2:
            meet.wait()  # neither goes on before both are there: they do run side by side
        where.append((threading.get_ident(), torch.get_num_threads()))
        return i * i

    assert side_by_side([lambda i=i: work(i) for i in range(9)], 2) == [i * i for i in range(9)]
    assert len(where) == 9
    assert len({thread for thread, _ in where}) == 2
    assert {threads for _, threads in where} == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("here", [True, False], ids=["this lane", "the other"])
def test_an_error_of_either_lane_is_raised_after_the_other_has_ended_what_it_was_at(here):
    mine, meet, ended = threading.get_ident(), threading.Barrier(2, timeout=20), []

    def first() -> None:
        meet.wait()
        if (threading.get_ident() == mine) == here:
            raise MemoryError("no room")
        time.sleep(0.2)
        ended.append(True)

    late: list[int] = []
    with pytest.raises(MemoryError, match="no room"):
        side_by_side([first, first, *[lambda: late.append(1)] * 50], 2)
    assert ended == [True]
    assert not late
    assert torch.get_num_threads() == 2
    assert side_by_side([lambda: 1, lambda: 2], 2) == [1, 2]


def test_what_a_lane_calls_stays_in_it():
    def work() -> set[int]:
        count = lanes.lanes(CPU, [lanes.WORTH // 2] * 2, lanes.WORTH)
        return set(side_by_side([threading.get_ident] * 4, count))

    assert all(len(found) == 1 for found in side_by_side([work] * 4, 2))


def test_callers_that_come_at_the_same_time_all_get_their_answers():
    found: dict[int, list[int]] = {}

    def call(n: int) -> None:
        torch.set_num_threads(2)
        works = [lambda i=i: (time.sleep(0.01), n * i)[1] for i in range(6)]
        found[n] = side_by_side(works, 2)

    callers = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert found == {n: [n * i for i in range(6)] for n in range(4)}


def test_one_thread_has_one_lane_and_so_have_few_tokens_and_a_row_that_fills_the_room():
    some = [lanes.WORTH // 2] * 2
    assert lanes.lanes(CPU, some, lanes.WORTH) == 2
    assert lanes.lanes(CPU, some, lanes.WORTH - 1) == 1
    assert lanes.lanes(CPU, [some[0], some[0] - 1], lanes.WORTH) == 1
    assert lanes.lanes(CPU, [], 0) == 1
    torch.set_num_threads(1)
    assert lanes.lanes(CPU, some, lanes.WORTH) == 1
    mine = threading.get_ident()
    assert side_by_side([threading.get_ident] * 3, 1) == [mine] * 3


def test_what_failed_in_the_other_lane_is_let_go_at_once():
    # memory that it had would be missing where it is tried again with less
    mine, meet = threading.get_ident(), threading.Barrier(2, timeout=20)
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        large = torch.ones(3)
        meet.wait()
        if threading.get_ident() != mine:
            held.append(weakref.ref(large))
            raise MemoryError("no room")

    gc.disable()
    try:
        with pytest.raises(MemoryError):
            side_by_side([work, work], 2)
        end = time.monotonic() + 5
        while held[0]() is not None and time.monotonic() < end:
            time.sleep(0.01)  # the other thread forgets its task a moment later
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_caller_does_not_wait_for_a_lane_that_is_at_anothers_work():
    busy, free, over = (threading.Event() for _ in range(3))
    lanes._other().submit(lambda: (busy.set(), free.wait(5), over.set()))
    assert busy.wait(20)
    try:
        assert side_by_side([lambda: 1, lambda: 2], 2) == [1, 2]
        assert not over.is_set()
    finally:
        free.set()


def test_groups_are_as_many_for_each_lane_and_of_like_sizes():
    sizes = [7, 90, 31, 45, 12, 60, 22, 55, 38, 70]
    for room in (100, 200, 1000):
        groups = by_length(sizes, room, 2)
        assert sorted(i for group in groups for i in group) == list(range(10))
        assert all(sum(sizes[i] for i in g) <= room or len(g) == 1 for g in groups)
        assert len(groups) >= len(by_length(sizes, room))
    assert len(by_length(sizes, 1000, 2)) == 2
    assert by_length([5], 100, 2) == [[0]]
    assert by_length([], 100, 2) == []


def test_rows_that_fill_the_room_are_scored_one_after_the_other(tiny):
    # two at a time would take what the room, halved when memory ran out, was to spare
    model, mine, met = tiny.load(), threading.get_ident(), []
    work = lambda group: met.append((threading.get_ident(), len(group)))  # noqa: E731
    in_groups(model, [600] * 5, 1000, work)
    assert met == [(mine, 1)] * 5
    met.clear()
    in_groups(model, [400] * 4, 1000, work)
    assert [size for _, size in met] == [1] * 4
