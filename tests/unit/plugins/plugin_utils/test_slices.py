"""A module that waits, run in slices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.gpuhub.platform.plugins.plugin_utils import slices


@pytest.fixture
def action(monkeypatch):
    """An action whose module gives the answers of `answers`; `asked` are its arguments, `shown` the lines displayed."""
    task = SimpleNamespace(
        args={"timeout": 300}, resolved_action="gpuhub.platform.kube_ready", get_name=lambda: "Ready"
    )
    action = object.__new__(slices.SlicedModule)
    action._task, action.asked, action.shown, action.answers = task, [], [], []

    def execute(module_name, module_args, task_vars):
        assert module_name == "gpuhub.platform.kube_ready"
        action.asked.append(module_args)
        return action.answers.pop(0)

    clock = iter(range(0, 1000, 9))
    monkeypatch.setattr(slices.ActionBase, "run", lambda *_: {})
    monkeypatch.setattr(slices.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(slices.display, "display", lambda line, color: action.shown.append(line))
    action._execute_module = execute
    return action


def test_what_is_ready_costs_one_execution(action):
    action.answers = [{"changed": False}]
    assert action.run(task_vars={"inventory_hostname": "head"}) == {"changed": False}
    assert len(action.asked) == 1
    assert action.shown == []


@pytest.mark.parametrize("end", [{"changed": False}, {"failed": True, "msg": "not ready"}, {"unreachable": True}])
def test_what_is_not_is_shown_until_it_ends(action, end):
    action.answers = [{"waiting": "8 of 300 s: a"}, {"waiting": "17 of 300 s: b"}, end]
    assert action.run(task_vars={"inventory_hostname": "head"}) == end
    assert action.shown == ["waiting: [head] Ready: 8 of 300 s: a", "waiting: [head] Ready: 17 of 300 s: b"]
    assert [arguments.get("waited") for arguments in action.asked] == [None, 9, 18]
    assert all(arguments["timeout"] == 300 and arguments["slice"] == 8 for arguments in action.asked)
