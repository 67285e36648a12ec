"""Files in shell syntax: what is read, what is refused, and that a real shell would agree."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.shell_assignments import parse


def values(text: str) -> dict[str, str | None]:
    """Names and values of a text without faults."""
    assignments, faults = parse(text)
    assert not faults
    return {name: value for name, value, _ in assignments}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n  \t\n# A=1\n", {}),
        ("A=1", {"A": "1"}),
        ("export A=1", {"A": "1"}),
        ("  export\tA=1  ", {"A": "1"}),
        ("A=", {"A": ""}),
        ("export A= B=2", {"A": "", "B": "2"}),
        ("A=1 # a comment", {"A": "1"}),
        ("A=1#2", {"A": "1#2"}),
        ("A='1 # 2' # 3", {"A": "1 # 2"}),
        ("A='$(reboot) `reboot` $HOME \\ \"'", {"A": '$(reboot) `reboot` $HOME \\ "'}),
        ('A="a \'b\' \\"c\\" \\$d \\` \\\\ \\e"', {"A": "a 'b' \"c\" $d ` \\ \\e"}),
        ("A=a\\ b\\$c\\'", {"A": "a b$c'"}),
        ("A=a'b'\"c\"d", {"A": "abcd"}),
        ("A=''\nB=\"\"", {"A": "", "B": ""}),
        ("A=a\\\nb", {"A": "ab"}),
        ('A="a\\\nb"', {"A": "ab"}),
        ("A='a\\\nb'", {"A": "a\\\nb"}),
        ("A=1 \\\n  B=2", {"A": "1", "B": "2"}),
        ("A='one\ntwo'", {"A": "one\ntwo"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=http://h:1/p?q=1".replace("?", "\\?"), {"A": "http://h:1/p?q=1"}),
        ("A=a=b,c:d@e+f%g^h]i}j!k", {"A": "a=b,c:d@e+f%g^h]i}j!k"}),
        ("A=größe", {"A": "größe"}),
        ("_a1=x", {"_a1": "x"}),
    ],
)
def test_values(text, expected):
    assert values(text) == expected


def test_lines_are_those_on_which_names_stand():
    assignments, _ = parse("# 1\nA='2\n3' B=3\n\nC=\\\n5 \\\nD=7\n")
    assert [(item.name, item.line) for item in assignments] == [("A", 2), ("B", 3), ("C", 5), ("D", 7)]


def test_a_name_that_is_set_twice_is_there_twice():
    assert [item.value for item in parse("A=1\nA=2")[0]] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("A=$(id)", 1, "A: '$' would be expanded"),
        ('\nA="$(id)"', 2, "A: '$' would be expanded"),
        ("A=`id`", 1, "A: '`' would run a command"),
        ('A="`id`"', 1, "A: '`' would run a command"),
        ("A=$HOME", 1, "A: '$' would be expanded"),
        ("A=${HOME}", 1, "A: '$' would be expanded"),
        ("A=$'x'", 1, "A: '$' would be expanded"),
        *((f"A=x{letter}y", 1, f"A: '{letter}' ends the value") for letter in "|&;()<>"),
        *((f"A=x{letter}y", 1, f"A: '{letter}' may be expanded") for letter in "*?[{~"),
        ("A='x", 1, "A: the quote ' is not closed"),
        ('\nA="x\\"', 2, 'A: the quote " is not closed'),
        ("A=x\\", 1, "A: the file ends after a backslash"),
        ("A=x\x07", 1, "A: control character U+0007"),
        ("A='x\x00'", 1, "A: control character U+0000"),
        ("A=1\rB=2", 1, "A: control character U+000D"),
        ("A = 1", 1, "blanks around the '=' of A"),
        ("A+=1", 1, "A+= appends"),
        ("export A", 1, "A has no value"),
        ("export", 1, "export without a name"),
        ("export # A=1", 1, "export without a name"),
        ("A=1 B", 1, "not an assignment NAME=value: 'B'"),
        ("reboot", 1, "not an assignment NAME=value: 'reboot'"),
        ("A=1 reboot", 1, "not an assignment NAME=value: 'reboot'"),
        ("source /etc/profile", 1, "not an assignment NAME=value: 'source'"),
        ('"A"=1', 1, "not an assignment"),
        ("1A=1", 1, "not an assignment NAME=value: '1A'"),
        ("export\\\nA=1", 1, "not an assignment"),
    ],
)
def test_faults(text, line, says):
    _, faults = parse(text)
    assert [fault.line for fault in faults] == [line]
    assert faults[0].text.startswith(says)


def test_every_faulty_line_is_named_and_the_others_are_read():
    assignments, faults = parse("A=1\nB=$(x 'y\nC=3\nif true; then\nD='4\nE=5\n")
    assert {item.name: item.value for item in assignments} == {"A": "1", "B": None, "C": "3", "D": None, "E": "5"}
    assert [fault.line for fault in faults] == [2, 4, 5]


def test_faults_show_no_value():
    _, faults = parse("A=hunter2$x\nB='hunter2\nC=hunter2;\nD =hunter2\nE+=hunter2\n")
    assert len(faults) == 5
    assert not any("hunter2" in fault.text for fault in faults)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_is_read_is_what_a_shell_would_set(shell, tmp_path):
    """500 texts of the characters that matter; those without a fault are given to a real shell."""
    assert shutil.which(shell)
    draw = random.Random(405)
    pieces = ["a", "B", " ", "  ", "\t", "\n", "\\", "'", '"', "$", "`", "#", "=", "~", "*", ";", "{x,y}", "X=", "\\\n"]
    texts = []
    while len(texts) < 500:
        text = "".join(draw.choices(["export ", "V1="], k=1) + draw.choices(pieces, k=draw.randint(1, 9)))
        assignments, faults = parse(text)
        if assignments and not faults:
            texts.append((text, {name: value for name, value, _ in assignments}))
    # A file for each, so that none can end in the next; all in one shell, each in a subshell.
    for number, (text, _) in enumerate(texts):
        (tmp_path / f"{number}").write_text(text)
    (tmp_path / "a").touch()  # what a pattern could match
    script = "set -a; i=0; while [ $i -lt $0 ]; do (. ./$i; env -0; printf '\\1\\0'); i=$((i+1)); done"
    command = [shutil.which(shell), "-c", script, str(len(texts))]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
    environments = done.stdout.decode().split("\1\0")
    assert len(environments) == len(texts) + 1
    for (text, expected), environment in zip(texts, environments, strict=False):
        found = dict(line.split("=", 1) for line in environment.split("\0") if line)
        assert {name: found.get(name) for name in expected} == expected, (text, done.stderr)
