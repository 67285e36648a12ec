"""When a long task is spoken of, and what is said."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.plugin_utils.running_tasks import RunningTasks


@pytest.fixture
def tasks():
    return RunningTasks()


def test_short_tasks_are_not_mentioned(tasks):
    tasks.start("1", "quick", "head", now=0)
    assert tasks.due(9.9) == []
    tasks.end("1", "head")
    assert tasks.due(99) == []


def test_long_tasks_are_mentioned_with_the_hosts_that_are_left(tasks):
    for host in ("head", "worker1"):
        tasks.start("1", "push", host, now=0)
    assert tasks.due(10) == ["running: [head, worker1] 10 s: push"]
    assert tasks.due(11) == []
    tasks.end("1", "head")
    tasks.item("1")
    assert tasks.due(20) == ["running: [worker1] 20 s: push, 1 items done"]


def test_the_longer_it_takes_the_less_is_said(tasks):
    tasks.start("1", "push", "head", now=0)
    assert [now for now in range(200) if tasks.due(now)] == [10, 20, 30, 40, 50, 60, 90, 120, 150, 180]


def test_many_hosts_are_counted(tasks):
    for number in range(9):
        tasks.start("1", "push", f"w{number}", now=0)
    assert tasks.due(10) == ["running: [w0, w1, w2, w3 and 5 more] 10 s: push"]


def test_what_never_began_ends_quietly(tasks):
    tasks.end("1", "head")
    tasks.item("1")
