"""`maxConn` over processes: never more than the limit, nothing left behind, whoever dies and whenever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.agent.workers.shared_slots import WINDOW, SharedSlots

_CONTENDER = """
import sys
from meshless_core.agent.workers.shared_slots import SharedSlots
slots = SharedSlots(int(sys.argv[1]), workers=4, worker=int(sys.argv[2]))
got = 0
for turn in range(3000):
    if slots.take("pod", "http", 3):
        got += 1
        assert slots.taken("pod", "http") <= 3, slots.taken("pod", "http")
        slots.give_back("pod", "http")
    assert slots.take("other", "http", None)
    assert slots.take("other", "http", None)
    slots.give_back("other", "http")
    slots.give_back("other", "http")
assert not len(slots)
print(got)
"""

_HOLDER = """
import fcntl, sys
from meshless_core.agent.workers.shared_slots import SharedSlots
slots = SharedSlots(int(sys.argv[1]), workers=4, worker=int(sys.argv[2]))
for _ in range(5):
    assert slots.take("pod", "http", 8)
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("holding", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def table(workers: int = 4) -> Iterator[tuple[SharedSlots, list[SharedSlots]]]:
    """The supervisor's view, and that of each worker."""
    shared = SharedSlots.create(workers)
    views = [shared.of_worker(index) for index in range(workers)]
    try:
        yield shared, views
    finally:
        for one in [*views, shared]:
            one.close()


def start(program: str, slots: SharedSlots, worker: int) -> subprocess.Popen[str]:
    descriptor = slots._descriptor
    return subprocess.Popen(
        [sys.executable, "-c", program, str(descriptor), str(worker)],
        pass_fds=[descriptor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_limit_counts_the_connections_of_all_workers() -> None:
    with table() as (_, (a, b, *_rest)):
        assert a.take("pod", "http", 2)
        assert b.take("pod", "http", 2)
        assert not a.take("pod", "http", 2)
        assert not b.take("pod", "http", 2)
        assert a.take("pod", "admin", 1), "another service has a limit of its own"
        a.give_back("pod", "http")
        assert b.take("pod", "http", 2)
        assert b.taken("pod", "http") == 2


def test_a_limit_that_comes_later_counts_what_is_there() -> None:
    with table() as (_, (a, b, *_rest)):
        for _ in range(5):
            assert a.take("pod", "http", None)
        assert not b.take("pod", "http", 5)
        assert b.take("pod", "http", 6)


def test_what_a_dead_worker_counted_is_free_again() -> None:
    with table() as (supervisor, (a, b, *_rest)):
        for _ in range(3):
            assert a.take("pod", "http", 4)
        assert b.take("pod", "http", 4)
        supervisor.clear(0)
        assert b.taken("pod", "http") == 1
        assert b.take("pod", "http", 2)
        assert not b.take("pod", "http", 2)


def test_giving_back_what_was_never_taken_is_a_bug_that_shows() -> None:
    with table() as (_, (a, *_rest)), pytest.raises(KeyError):
        a.give_back("pod", "http")


def test_processes_that_compete_never_exceed_the_limit_and_leave_nothing() -> None:
    with table() as (_, views):
        running = [start(_CONTENDER, views[0], worker) for worker in range(4)]
        for process in running:
            out, _ = process.communicate(timeout=50)
            assert process.returncode == 0
            assert int(out) > 0, "everybody gets a turn"
        assert views[0].taken("pod", "http") == 0
        assert views[0].taken("other", "http") == 0


def test_a_process_killed_while_it_holds_the_lock_blocks_nobody() -> None:
    with table() as (supervisor, (a, *_rest)), start(_HOLDER, a, 1) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert a.taken("pod", "http") == 5
        supervisor.clear(1)
        assert a.take("pod", "http", 1)


def test_without_a_place_to_count_a_limit_means_no_and_no_limit_means_yes(caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedSlots.create(1, rows=WINDOW)
    one = shared.of_worker(0)
    try:
        for number in range(WINDOW):
            assert one.take(f"pod-{number}", "http", 1)
        assert not one.take("one-more", "http", 1)
        assert "service http of pod one-more is refused" in caplog.text
        assert one.take("one-more", "http", None)
        assert one.taken("one-more", "http") == 1
        one.give_back("one-more", "http")
        one.give_back("pod-7", "http")
        assert one.take("one-more", "http", 1), "a row that is free is used by whoever needs one"
    finally:
        one.close()
        shared.close()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "c"]), st.sampled_from(["take", "give", "die"]), st.booleans()),
        max_size=80,
    )
)
def test_it_counts_as_a_table_of_numbers_would(steps: list[tuple[int, str, str, bool]]) -> None:
    with table(3) as (supervisor, views):
        model: dict[tuple[int, str], int] = {}

        def total(pod: str) -> int:
            return sum(count for (_, other), count in model.items() if other == pod)

        for worker, pod, what, limited in steps:
            if what == "take":
                limit = 3 if limited else None
                expected = not limited or total(pod) < 3
                assert views[worker].take(pod, "http", limit) is expected
                if expected:
                    model[worker, pod] = model.get((worker, pod), 0) + 1
            elif what == "give" and model.get((worker, pod)):
                views[worker].give_back(pod, "http")
                model[worker, pod] -= 1
            elif what == "die":
                views[worker].close()
                supervisor.clear(worker)
                views[worker] = supervisor.of_worker(worker)
                model = {key: count for key, count in model.items() if key[0] != worker}
            assert views[(worker + 1) % 3].taken(pod, "http") == total(pod)
        assert [len(view) for view in views] == [
            sum(count > 0 for (owner, _), count in model.items() if owner == worker) for worker in range(3)
        ]
