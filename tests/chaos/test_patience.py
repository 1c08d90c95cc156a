"""How long a run waits for its last tasks: as long as there is progress, and a stuck task is found."""

from __future__ import annotations

from chaos.tasks.stage import SETTLE, STUCK, Patience


def test_tasks_are_waited_for_as_long_as_executions_begin_or_end():
    patience = Patience(1000.0)
    assert all(patience.lasts(1000.0 + 50 * n, left=5, executions=n) for n in range(16))


def test_tasks_are_waited_for_as_long_as_fewer_are_left():
    patience = Patience(1000.0)
    assert all(patience.lasts(1000.0 + 50 * n, left=100 - n, executions=0) for n in range(16))


def test_a_task_that_is_stuck_is_found():
    patience = Patience(1000.0)
    assert patience.lasts(1001.0, left=5, executions=7)
    assert patience.lasts(1000.0 + STUCK, left=5, executions=7)
    assert not patience.lasts(1001.0 + STUCK, left=5, executions=7)


def test_tasks_that_only_go_from_queue_to_queue_are_stuck():
    patience = Patience(1000.0)
    seen = [patience.lasts(1000.0 + n, left=(5, 7)[n % 2], executions=7) for n in range(int(STUCK) + 1)]
    assert seen == [True] * int(STUCK) + [False]


def test_a_moment_in_which_the_broker_does_not_answer_is_no_progress():
    patience = Patience(1000.0)
    counts = [5.0, float("inf")]
    seen = [patience.lasts(1000.0 + n, left=counts[n % 2], executions=7) for n in range(int(STUCK) + 1)]
    assert not seen[-1]


def test_a_task_that_runs_again_and_again_is_found_at_the_end():
    patience = Patience(1000.0)
    assert patience.lasts(1000.0 + SETTLE - 1, left=1, executions=998)
    assert not patience.lasts(1000.0 + SETTLE, left=1, executions=999)
