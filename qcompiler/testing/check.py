"""A small FileCheck (https://llvm.org/docs/CommandGuide/FileCheck.html) for printed graphs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.ir.graph import QGraph
from qcompiler.ir.printer import print_graph

_DIRECTIVE = re.compile(r"CHECK(?:-(NEXT|NOT))?:\s*(.*)")
_PIECE = re.compile(r"\[\[(\w+)(?::(.*?))?\]\](?!\])|\{\{(.*?)\}\}(?!\})|(\s+)")


@dataclass(frozen=True)
class _Directive:
    kind: str  # "", "NEXT" or "NOT"
    pattern: str


def check_ir(graph: QGraph | str, expected: str) -> None:
    """Checks a graph's printed form, line by line, against directives in order.

    ``CHECK: text`` finds the next line that contains the text, ``CHECK-NEXT: text`` asks it of the
    line that follows, ``CHECK-NOT: text`` forbids it between its neighbours. In a text ``{{...}}``
    is a regular expression, ``[[NAME:regex]]`` captures one and ``[[NAME]]`` is what was captured;
    spaces match any number of spaces::

        CHECK:      %[[W:.*]] : f32[8,3,3,3] = constant
        CHECK-NEXT: qfloat.conv2d(%x, %[[W]], none,
        CHECK-NOT:  qfloat.batch_norm

    Raises:
        AssertionError: the graph does not match; the message shows where.
        ValueError: a line is no directive, or names a capture that is not made above it.
    """
    text = graph if isinstance(graph, str) else print_graph(graph)
    lines = [line for line in text.splitlines() if line.strip()]
    captures: dict[str, str] = {}
    place, barred = 0, list[_Directive]()
    for directive in _directives(expected):
        if directive.kind == "NOT":
            barred.append(directive)
            continue
        found = _find(directive, lines, place, captures)
        _check_absent(barred, lines, place, found, captures)
        place, barred = found + 1, []
    _check_absent(barred, lines, place, len(lines), captures)


def _directives(expected: str) -> list[_Directive]:
    found = []
    for line in filter(None, map(str.strip, expected.splitlines())):
        match = _DIRECTIVE.fullmatch(line)
        if match is None or not match.group(2):
            message = f"{line!r} is no CHECK:, CHECK-NEXT: or CHECK-NOT: with a text"
            raise ValueError(message)
        found.append(_Directive(match.group(1) or "", match.group(2)))
    return found


def _find(directive: _Directive, lines: Sequence[str], place: int, captures: dict[str, str]) -> int:
    """Returns the index of the line that a directive matches, and adds what it captures."""
    pattern = _compiled(directive.pattern, captures)
    last = min(place + 1, len(lines)) if directive.kind == "NEXT" else len(lines)
    for index in range(place, last):
        match = pattern.search(lines[index])
        if match is not None:
            captures.update(match.groupdict())
            return index
    name = f"CHECK{'-NEXT' if directive.kind else ''}: {directive.pattern}"
    known = "".join(f"\n  with {k} = {v}" for k, v in captures.items())
    raise AssertionError(_report(f"nothing matches {name}{known}", lines, place))


def _check_absent(
    barred: Sequence[_Directive],
    lines: Sequence[str],
    start: int,
    stop: int,
    captures: dict[str, str],
) -> None:
    for directive in barred:
        pattern = _compiled(directive.pattern, captures)
        for index in range(start, stop):
            if pattern.search(lines[index]):
                message = f"this matches CHECK-NOT: {directive.pattern}"
                raise AssertionError(_report(message, lines, index))


def _compiled(text: str, captures: dict[str, str]) -> re.Pattern[str]:
    parts, place, made = [], 0, set[str]()
    for piece in _PIECE.finditer(text):
        parts.append(re.escape(text[place : piece.start()]))
        name, regex, free, space = piece.groups()
        if space is not None:
            parts.append(r"\s+")
        elif free is not None:
            parts.append(f"(?:{free})")
        elif regex is not None:
            parts.append(f"(?P<{name}>{regex})")
            made.add(name)
        elif name in made:
            parts.append(f"(?P={name})")
        elif name in captures:
            parts.append(re.escape(captures[name]) + r"\b")
        else:
            message = f"nothing captures {name!r} above {text!r}"
            raise ValueError(message)
        place = piece.end()
    parts.append(re.escape(text[place:]))
    return re.compile("".join(parts))


def _report(problem: str, lines: Sequence[str], place: int) -> str:
    shown = (f"{'>>' if i == place else '  '} {line}" for i, line in enumerate((*lines, "(end)")))
    return "\n".join((f"{problem}, from the marked line on:", *shown))
