"""Assignments of a file in shell syntax, read and never executed. Pure.

A value that is returned is the one that a POSIX shell and bash would give the name. What they could read differently,
what they would expand and what they would run is a fault, not a guess.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Assignment(NamedTuple):
    """A name that is set; `value` is None where it could not be read, and a fault says why."""

    name: str
    value: str | None
    line: int


class Fault(NamedTuple):
    """What is wrong with a line. `text` never quotes a value, which may be a secret."""

    line: int
    text: str


_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_EXPORT = re.compile(r"export(?=[ \t\n]|\Z)")
_COMMAND = re.compile(r"[^\s=;|&<>()'\"`$]*")
_BLANKS = re.compile(r"(?:[ \t]|\\\n)+")

# Characters that mean something to a shell where they are not quoted.
_UNQUOTED = {
    **{letter: f"'{letter}' ends the value for a shell" for letter in "|&;()<>"},
    **{letter: f"'{letter}' may be expanded by a shell" for letter in "*?[{~"},
}
_EXPANDED = {"$": "'$' would be expanded by a shell", "`": "'`' would run a command in a shell"}
_CURE = "; put the value into single quotes if it is meant as it stands"


class _Reader:
    """The text, how far it has been read, whose value it is in, and what has been found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.name = ""
        self.assignments: list[Assignment] = []
        self.faults: list[Fault] = []

    @property
    def line(self) -> int:
        """Number of the line that is read, from 1."""
        return self.text.count("\n", 0, self.at) + 1

    def next(self) -> str:
        """The next character, empty at the end."""
        return self.text[self.at : self.at + 1]

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Step over what matches here."""
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def fault(self, text: str) -> None:
        """Note what is wrong in this line."""
        self.faults.append(Fault(self.line, text))

    def command(self) -> None:
        """Read up to the end of a line that no quote and no backslash continues.

        After a fault the rest of the line is not looked at, because nobody knows how it was meant.
        """
        before = len(self.faults)
        self.skip(_BLANKS)
        exported = self.skip(_EXPORT) is not None
        self.skip(_BLANKS)
        empty = True
        while self.next() not in ("", "\n", "#"):
            empty = False
            line, name = self.line, self.skip(_NAME)
            if name is None:
                self.fault(self._no_assignment(exported))
                break
            self.name = name[1]
            value = self._word()
            self.assignments.append(Assignment(self.name, value, line))
            if value is None:
                break
            self.skip(_BLANKS)
        if exported and empty:
            self.fault("export without a name")
        if len(self.faults) > before or self.next() == "#":
            end = self.text.find("\n", self.at)
            self.at = end if end >= 0 else len(self.text)
        self.at += 1

    def _no_assignment(self, exported: bool) -> str:
        """Why what comes next is not `NAME=value`."""
        command = _COMMAND.match(self.text, self.at)
        word = command[0] if command else ""
        rest = self.text[self.at + len(word) :]
        if re.match(r"[ \t]+=", rest):
            return f"blanks around the '=' of {word}; a shell wants {word}=value"
        if word.endswith("+") and rest.startswith("="):
            return f"{word}= appends to a value; write the whole value"
        if exported and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word):
            return f"{word} has no value"
        return f"not an assignment NAME=value: {word[:40]!r}; the file is read, nothing in it is executed"

    def _refuse(self, text: str) -> None:
        """Note what is wrong with the value that is read."""
        self.fault(f"{self.name}: {text}")

    def _word(self) -> str | None:
        """Read a value up to the next blank. None, with a fault, if it is not plain text."""
        value: list[str] = []
        while self.next() not in ("", " ", "\t", "\n"):
            letter = self.next()
            if letter in "'\"":
                part = self._quoted(letter)
                if part is None:
                    return None
                value.append(part)
                continue
            self.at += 1
            if letter == "\\":
                letter = self.next()
                self.at += 1
                if letter == "\n":
                    continue
                if not letter:
                    self._refuse("the file ends after a backslash")
                    return None
            elif letter in _EXPANDED or letter in _UNQUOTED:
                self._refuse({**_EXPANDED, **_UNQUOTED}[letter] + _CURE)
                return None
            if not self._printable(letter):
                return None
            value.append(letter)
        return "".join(value)

    def _quoted(self, quote: str) -> str | None:
        """Read a quoted part with both quotes. Where the second is missing, reading goes on in the next line."""
        start, value = self.at, []
        self.at += 1
        while self.next() != quote:
            letter = self.next()
            if not letter:
                self.at = start
                self._refuse(f"the quote {quote} is not closed")
                return None
            self.at += 1
            if quote == '"' and letter in _EXPANDED:
                self._refuse(_EXPANDED[letter] + _CURE)
                return None
            if quote == '"' and letter == "\\" and self.next() and self.next() in '$`"\\\n':
                letter = self.next()
                self.at += 1
                if letter == "\n":
                    continue
            if letter != "\n" and not self._printable(letter):
                return None
            value.append(letter)
        self.at += 1
        return "".join(value)

    def _printable(self, letter: str) -> bool:
        """Whether a character can be part of a setting; a fault says so if not."""
        if "\ud800" <= letter <= "\udfff":  # what Python makes of a byte that is no UTF-8
            self._refuse("a character that is not UTF-8")
            return False
        if letter == "\t" or (letter >= " " and letter != "\x7f"):
            return True
        self._refuse(f"control character U+{ord(letter):04X}")
        return False


def parse(text: str) -> tuple[list[Assignment], list[Fault]]:
    """Return the assignments of a file and its faults, both in the order of their lines.

    Understood: ``NAME=value`` and ``export NAME=value``, several in a line, quotes, backslashes, comments, lines that
    a backslash continues, line ends and byte order mark of Windows. A name that is set twice is there twice.
    """
    reader = _Reader(text.lstrip("\ufeff").replace("\r\n", "\n"))
    while reader.next():
        reader.command()
    return reader.assignments, reader.faults
