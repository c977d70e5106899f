"""Values of text IR: literals, nodes, lists, words of torch, and records of facts."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import fx

from qcompiler.errors import counted
from qcompiler.ir.annotations import Origin, Quant
from qcompiler.ir.lexer import Line
from qcompiler.ir.records import RECORDS, STATES, TORCH_WORDS, required

_MAX_DEPTH = 50
_WORDS: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "inf": float("inf"),
    "nan": float("nan"),
    **STATES,
}
_HINTS = {cls: get_type_hints(cls) for cls in (*RECORDS.values(), Quant, Origin)}


class ValueReader:
    """Reads values that may name the nodes and lists of facts known so far."""

    def __init__(self, nodes: Mapping[str, fx.Node], tables: Mapping[str, Any]) -> None:
        self._nodes, self._tables = nodes, tables

    def value(self, line: Line, depth: int = 0) -> Any:
        """Reads one value.

        Raises:
            QCompilerError: QC0601 with line and column.
        """
        if depth > _MAX_DEPTH:
            line.fail("the value is nested too deeply")
        if line.accept("["):
            return self.items(line, "]", depth + 1)
        if line.accept("-"):
            return -_number(line)
        match line.next.kind:
            case "number":
                return _number(line)
            case "string":
                return line.take_string()
            case "node":
                return self._known(line, "node", self._nodes)
            case "table":
                return self._known(line, "table", self._tables)
            case "word":
                return self._word(line, depth)
        line.fail(f"expected a value, found {line.next.text or 'the end of the line'!r}")

    def items(self, line: Line, closing: str, depth: int = 0) -> list[Any]:
        """Reads values up to a closing bracket."""
        found: list[Any] = []
        while not line.accept(closing):
            found.append(self.value(line, depth))
            if not line.accept(","):
                line.expect(closing)
                break
        return found

    def arguments(self, line: Line, closing: str) -> tuple[list[Any], dict[str, Any]]:
        """Reads values and then ``name=value`` pairs up to a closing bracket."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        while not line.accept(closing):
            first, key = line.next, line.take_key()
            if key in kwargs:
                line.fail(f"{key} stands twice", first.column)
            if key is not None:
                kwargs[key] = self.value(line)
            elif kwargs:
                line.fail("a value without a name stands behind one with a name", first.column)
            else:
                args.append(self.value(line))
            if not line.accept(","):
                line.expect(closing)
                break
        return args, kwargs

    def _known(self, line: Line, kind: str, table: Mapping[str, Any]) -> Any:
        token = line.take(kind)
        if token.text[1:] not in table:
            line.fail(f"{token.text} is not defined above", token.column)
        return table[token.text[1:]]

    def _word(self, line: Line, depth: int) -> Any:
        word = line.take("word")
        if word.text == "torch":
            line.expect(".")
            name = f"torch.{line.take('word').text}"
            if name not in TORCH_WORDS:
                line.fail(f"unknown word {name}", word.column)
            return TORCH_WORDS[name]
        if word.text == "device":
            return self._device(line)
        if word.text in RECORDS and line.accept("("):
            args, kwargs = self.arguments(line, ")")
            return build_record(line, RECORDS[word.text], args, kwargs, word.column)
        if word.text not in _WORDS:
            line.fail(f"unknown word {word.text!r}", word.column)
        return _WORDS[word.text]

    def _device(self, line: Line) -> torch.device:
        line.expect("(")
        column, text = line.next.column, line.take_string()
        line.expect(")")
        try:
            return torch.device(text)
        except RuntimeError:
            line.fail(f"unknown device {text!r}", column)


def _number(line: Line) -> int | float:
    if line.accept("inf"):
        return float("inf")
    token = line.take("number")
    return line.integer(token.text, token.column) if token.text.isdigit() else float(token.text)


def build_record(
    line: Line, cls: type[Any], args: list[Any], kwargs: dict[str, Any], column: int
) -> Any:
    """Returns a record with lists made tuples; QC0601 when its fields are not as declared."""
    needed = [f.name for f in fields(cls) if required(f)]
    if len(args) != len(needed):
        line.fail(f"{cls.__name__} takes {counted(len(needed), 'value')}, not {len(args)}", column)
    given = {k: _frozen(v) for k, v in (*zip(needed, args, strict=True), *kwargs.items())}
    hints = _HINTS[cls]
    for key, value in given.items():
        if key not in hints or (key in needed and key in kwargs):
            line.fail(f"{cls.__name__} has no option {key}", column)
        if not _fits(value, hints[key]):
            line.fail(f"{key} of {cls.__name__} cannot be {value!r}", column)
    return cls(**given)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Says whether a value is of a field's annotated type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(v, parts[0]) for v in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return type(value) is hint
