from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from darkroom.models.late import Late


def test_a_part_that_is_asked_for_as_it_comes_has_come_now() -> None:
    future: Future[Any] = Future()
    seen: list[tuple[Any, float]] = []
    # Before the note that the Late takes: as a thread would, which waits and is woken first.
    future.add_done_callback(lambda _: seen.append(late.part()))
    late = Late(future, lambda late, take: take(late.part()[0]))
    before = time.perf_counter()
    future.set_result("part")
    [(part, came_at)] = seen
    assert part == "part"
    assert before <= came_at <= time.perf_counter()
