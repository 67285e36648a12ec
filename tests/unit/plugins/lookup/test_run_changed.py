"""What a run knows of its own changes: the callback that notes them, the lookup that tells, as playbooks use both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.gpuhub.platform.plugins.plugin_utils.run_changes import RunChanges

REPOSITORY = Path(__file__).resolve().parents[4]
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - debug: {msg: "before: {{ lookup('gpuhub.platform.run_changed') }}"}
    - command: "true"
      changed_when: false
    - debug: {msg: "after a look: {{ lookup('gpuhub.platform.run_changed') }}"}
    - block:
        - command: "false"
          changed_when: true
      rescue:
        - debug: {msg: "after a change: {{ lookup('gpuhub.platform.run_changed') }}"}
"""


@pytest.mark.parametrize(
    ("callbacks", "told"),
    {
        "watched": ("gpuhub.platform.changes", ["before: False", "after a look: False", "after a change: True"]),
        "not watched": ("gpuhub.platform.progress", ["before: True", "after a look: True", "after a change: True"]),
    }.values(),
    ids=["watched", "not watched"],
)
def test_in_a_playbook(callbacks, told, tmp_path):
    play = tmp_path / "play.yml"
    play.write_text(PLAYBOOK)
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", f"-eansible_python_interpreter={sys.executable}", play],
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_CALLBACKS_ENABLED": callbacks}
        | {"ANSIBLE_LOG_PATH": str(tmp_path / "log"), "ANSIBLE_NOCOLOR": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"msg: '((?:before|after [\w ]+): (?:True|False))'", done.stdout) == told


@pytest.mark.parametrize(
    ("notes", "made"), [([], None), (["watch"], False), (["watch", False], False), (["watch", True, False], True)]
)
def test_notes(notes, made):
    run = RunChanges()
    for note in notes:
        run.watch() if note == "watch" else run.note(note)
    assert run.made is made
