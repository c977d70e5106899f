"""Overrides: rules that give parts of a model other bits than the scheme does.

A rule is ``where=what``. What is a scheme or a part of one (``w8a8``, ``w4g64``, ``a8``), or
``float``. Where is one of

- ``blocks.3.*``: modules, by a glob of their path; a module includes those within it. The names of
  inputs and nodes serve as well;
- ``op:linear``: every operator of a type, as the report names it;
- ``line:net.py:42``: the operators that a source line made;
- ``between:stem,head``: what lies on a way from one module or node to another, both included;

with ``:weight`` or ``:activation`` behind it where only the one or the other is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Literal

import networkx as nx
from torch import fx

from qcompiler.errors import QCompilerError, nearest
from qcompiler.ir.annotations import origin_of
from qcompiler.ir.scheme import Scheme

Part = Literal["weight", "activation"]

_PARTS: tuple[Part, ...] = ("weight", "activation")
_KINDS = ("op", "line", "between")
_HELP = "write module.path=w4a8, op:linear=w8, line:net.py:42=a8, between:one,other=float"


@dataclass(frozen=True)
class Override:
    """One rule: ``kind`` and ``pattern`` say where, ``part`` and ``scheme`` what."""

    text: str
    kind: str
    pattern: str
    part: Part | None
    scheme: Scheme

    @classmethod
    def parse(cls, text: str) -> Override:
        """Reads ``where=what``.

        Raises:
            QCompilerError: QC0304 for a wrong form, or a part that the scheme says nothing of.
        """
        where, equals, what = text.rpartition("=")
        if not equals or not where or not what:
            raise QCompilerError("QC0304", f"{text!r} is no override", remedy=_HELP)
        scheme = Scheme.parse(what, whole=False)
        part: Part | None = None
        for known in _PARTS:
            if where.endswith(f":{known}"):
                part, where = known, where.removesuffix(f":{known}")
        said = {"weight": scheme.weight, "activation": scheme.activation}
        if part is not None and (scheme.is_float or said[part] is None):
            kept = "whole operators stay in float" if scheme.is_float else f"there is no {part}"
            problem = f"{text!r} concerns the {part} alone, and in {what!r} {kept}"
            raise QCompilerError("QC0304", problem, remedy=f"leave :{part} out, or {_HELP}")
        kind, colon, pattern = where.partition(":")
        if not colon:
            return cls(text, "name", where, part, scheme)
        if kind not in _KINDS or not pattern:
            remedy = f"{nearest(kind, [*_KINDS, *_PARTS])}; {_HELP}"
            raise QCompilerError("QC0304", f"{text!r} is no override", remedy=remedy)
        if kind == "between" and pattern.count(",") != 1:
            raise QCompilerError("QC0304", f"{text!r} names no two ends", remedy=_HELP)
        return cls(text, kind, pattern, part, scheme)

    def concerns(self, part: Part) -> bool:
        """Says whether the rule asks for bits of weights, or of activations."""
        asked = self.scheme.weight if part == "weight" else self.scheme.activation
        return asked is not None and self.part in (None, part)

    def matches(self, nodes: Sequence[fx.Node]) -> list[fx.Node]:
        """Returns the inputs and calls that the rule names.

        Raises:
            QCompilerError: QC0306 with the nearest names where there are none.
        """
        if self.kind == "between":
            ends = self.pattern.split(",")
            return self._between(*(self._named(nodes, end) for end in ends))
        if self.kind == "name":
            return self._named(nodes, self.pattern)
        if self.kind == "op":
            found = [n for n in nodes if fnmatchcase(operator_name(n), self.pattern)]
            return found or self._unmatched(self.pattern, map(operator_name, nodes))
        found = [n for n in nodes if _is_line(n, self.pattern)]
        return found or self._unmatched(self.pattern, map(_line, nodes))

    def _named(self, nodes: Sequence[fx.Node], pattern: str) -> list[fx.Node]:
        found = [n for n in nodes if any(fnmatchcase(name, pattern) for name in names_of(n))]
        return found or self._unmatched(pattern, (name for n in nodes for name in names_of(n)))

    def _between(self, firsts: Iterable[fx.Node], lasts: Iterable[fx.Node]) -> list[fx.Node]:
        first, last = list(firsts), list(lasts)
        ways: nx.DiGraph[fx.Node] = nx.DiGraph()
        for node in first[0].graph.nodes:
            ways.add_edges_from((used, node) for used in node.all_input_nodes)
        after = set(first).union(*(nx.descendants(ways, n) for n in first if n in ways))
        before = set(last).union(*(nx.ancestors(ways, n) for n in last if n in ways))
        found = [n for n in first[0].graph.nodes if n in after & before and n.op != "get_attr"]
        if not found:
            raise QCompilerError(
                "QC0306",
                f"the override {self.text!r} matches nothing: no way leads from "
                f"{first[0].name} to {last[0].name}",
                remedy="name the end that is computed first before the other",
            )
        return found

    def _unmatched(self, pattern: str, known: Iterable[str]) -> list[fx.Node]:
        remedy = nearest(pattern, {name for name in known if name})
        problem = f"the override {self.text!r} matches nothing: there is no {pattern!r}"
        raise QCompilerError("QC0306", problem, remedy=remedy)


def operator_name(node: fx.Node) -> str:
    """Returns the type of a call without its namespace, empty for other nodes."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).partition("::")[2] if schema is not None else ""


def names_of(node: fx.Node) -> list[str]:
    """Returns what a node goes by: its name, its module's path, and those around that."""
    parts = (origin_of(node).module or "").split(".")
    paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return [node.name, *(path for path in paths if path)]


def _line(node: fx.Node) -> str:
    """Returns ``file:line`` of a node, the file without its folders."""
    file, colon, line = _place(node).rpartition(":")
    return f"{PurePath(file).name}:{line}" if colon else ""


def _is_line(node: fx.Node, pattern: str) -> bool:
    return _place(node) == pattern or _place(node).endswith(f"/{pattern}")


def _place(node: fx.Node) -> str:
    """Returns the source of a node without the text of the line."""
    return (origin_of(node).source or "").partition(" (")[0]
