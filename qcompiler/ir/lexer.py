"""Tokens of text IR, one line at a time, and errors that name line and column."""

from __future__ import annotations

import json
import re
from typing import NamedTuple, NoReturn

from qcompiler.errors import QCompilerError

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<node>%[A-Za-z_]\w*)
      | (?P<constant>@\w+)
      | (?P<table>\$\d+)
      | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>//|\*\*|[-+*/%.,:=()\[\]{}])""",
    re.VERBOSE | re.ASCII,
)
_DIGEST = re.compile(r"\s*([0-9a-f]{64})")
_KEY = re.compile(r"(\w+)[ \t]*=", re.ASCII)
_MAX_DIGITS = 400
_REMEDY = "write it as print_graph does; the grammar is in docs/reference/ir.md"


class Token(NamedTuple):
    """A piece of a line: its kind, its text and the column where it starts, from 1."""

    kind: str
    text: str
    column: int


class Line:
    """A line of text IR that is read from left to right."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number = text, number
        self._place = 0
        self._next: Token | None = None

    @property
    def next(self) -> Token:
        """The next token; its kind is ``end`` behind the last one."""
        if self._next is None:
            self._next = self._scan()
        return self._next

    def _scan(self) -> Token:
        while True:
            place = self._place
            if place >= len(self.text):
                return Token("end", "", place + 1)
            match = _TOKEN.match(self.text, place)
            if match is None:
                self.fail(f"cannot read {self.text[place : place + 12]!r}", place + 1)
            self._place = match.end()
            if match.lastgroup != "space":
                return Token(str(match.lastgroup), match.group(), place + 1)

    def take(self, kind: str | None = None) -> Token:
        """Returns the next token and goes on; its kind is checked when one is given."""
        token = self.next
        if kind is not None and token.kind != kind:
            self.fail(f"expected a {kind}, found {token.text or 'the end of the line'!r}")
        self._next = None
        return token

    def at(self, *texts: str) -> bool:
        """Says whether the next token is one of the given words or signs."""
        return self.next.kind in ("word", "sign") and self.next.text in texts

    def accept(self, text: str) -> bool:
        """Goes past a word or sign if it comes next, and says whether it did."""
        if self.at(text):
            self._next = None
            return True
        return False

    def expect(self, text: str) -> None:
        """Goes past a word or sign that must come next."""
        if not self.accept(text):
            self.fail(f"expected {text!r}, found {self.next.text or 'the end of the line'!r}")

    def take_key(self) -> str | None:
        """Goes past ``name =`` if it comes next and returns the name."""
        if self.next.kind != "word":
            return None
        match = _KEY.match(self.text, self.next.column - 1)
        if match is None:
            return None
        self._place, self._next = match.end(), None
        return match.group(1)

    def take_name(self, kind: str) -> str:
        """Returns the name behind the sign of a node, constant or table."""
        return self.take(kind).text[1:]

    def take_string(self) -> str:
        """Returns the value of a quoted string."""
        column = self.next.column
        try:
            value = json.loads(self.take("string").text)
        except ValueError:
            self.fail("the string is not quoted as in JSON", column)
        return str(value)

    def take_integer(self) -> int:
        """Returns an integer with an optional minus."""
        negative, column = self.accept("-"), self.next.column
        text = self.take("number").text
        if not text.isdigit():
            self.fail(f"expected an integer, found {text}", column)
        return -self.integer(text, column) if negative else self.integer(text, column)

    def integer(self, text: str, column: int) -> int:
        """Returns the value of a number's digits."""
        if len(text) > _MAX_DIGITS:
            self.fail(f"an integer of {len(text)} digits", column)
        return int(text)

    def take_digest(self) -> str:
        """Returns a sha256 in hexadecimal digits."""
        match = _DIGEST.match(self.text, self._place) if self._next is None else None
        if match is None:
            self.fail("expected the 64 hexadecimal digits of a sha256", self._place + 1)
        self._place = match.end()
        return match.group(1)

    def take_rest(self) -> tuple[int, str]:
        """Returns the column and the text of what is left of the line."""
        column = self.next.column
        self._place, self._next = len(self.text), None
        return column, self.text[column - 1 :]

    def finish(self) -> None:
        """Checks that nothing is left."""
        if self.next.kind != "end":
            self.fail(f"{self.next.text!r} is left over")

    def fail(self, problem: str, column: int | None = None) -> NoReturn:
        """Raises QC0601 with the line and column (by default that of the next token)."""
        if column is None:
            column = self.next.column
        raise QCompilerError(
            "QC0601", f"line {self.number}, column {column}: {problem}", remedy=_REMEDY
        )
