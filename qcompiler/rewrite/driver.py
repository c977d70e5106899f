"""Applies rewrite rules to a graph until none matches, and remembers why others did not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import fx

from qcompiler.errors import QCompilerError, nearest
from qcompiler.ir.annotations import Origin, has_type, origin_of, set_origin, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.rewrite.pattern import Match, NoMatch, Pattern, match
from qcompiler.torch_compat import is_erased

# A rule that fires more often than this per node of the graph undoes another one's work.
_REWRITES_PER_NODE = 16


@dataclass(frozen=True)
class RewriteRule:
    """A pattern and what to do with its matches.

    ``rewrite`` builds the replacement of the match's root and returns it (an existing node, or the
    root itself when it was changed in place), or returns a NoMatch and leaves the graph alone.
    ``keeps_type`` is False where the replacement may have another type.
    """

    name: str
    pattern: Pattern
    rewrite: Callable[[QGraph, Match], fx.Node | NoMatch]
    keeps_type: bool = True


@dataclass(frozen=True)
class Applied:
    """A rewrite that took place: the rule, the node that went, the node that stands for it."""

    rule: str
    old: str
    new: str


@dataclass
class RewriteLog:
    """What a run of rules did, and the last reason why a rule did not apply to a node."""

    applied: list[Applied] = field(default_factory=list)
    misses: dict[tuple[str, str], NoMatch] = field(default_factory=dict)

    def why_not(self, node: str, rule: str) -> str:
        """Returns why a rule left a node alone.

        Raises:
            KeyError: the rule never looked at a node of that name.
        """
        try:
            return str(self.misses[rule, node])
        except KeyError:
            seen = {n for r, n in self.misses if r == rule}
            hint = nearest(node, seen) if seen else f"no rule {rule!r} has run"
            message = f"rule {rule!r} has no reason for node {node!r}: {hint}"
            raise KeyError(message) from None


def rewrite(graph: QGraph, rules: Sequence[RewriteRule], log: RewriteLog | None = None) -> bool:
    """Applies rules in the given order of preference to a fixed point; returns whether any did.

    New nodes without an origin get that of the node they replace; operands of replaced nodes that
    nothing reads any more are erased. Quantization facts are inherited by the rules alone.

    Raises:
        QCompilerError: QC0511 when the rules do not come to an end or one returns neither a node
            nor a NoMatch, QC0504 when a replacement has another type than the node it replaces.
    """
    log = RewriteLog() if log is None else log
    work = _Worklist(graph.calls)
    before, bound = len(log.applied), _REWRITES_PER_NODE * (len(graph.nodes) + 1)
    while (node := work.pop()) is not None:
        for rule in rules:
            found = match(rule.pattern, node)
            if isinstance(found, Match):
                known = set(graph.module.graph.nodes)
                old, kept = node.name, type_of(node) if has_type(node) else None
                operands = node.all_input_nodes
                new = rule.rewrite(graph, found)
                if not isinstance(new, (fx.Node, NoMatch)):
                    raise _no_result(rule, node, new)
                if not isinstance(new, NoMatch):
                    if rule.keeps_type and kept is not None and type_of(new) != kept:
                        raise _other_type(rule, node, new)
                    work.extend(_finish(graph, node, new, known, operands))
                    log.applied.append(Applied(rule.name, old, new.name))
                    break
                found = new
            log.misses[rule.name, node.name] = found
        if len(log.applied) - before > bound:
            raise _endless(log.applied[-4:])
    return len(log.applied) > before


class _Worklist:
    """Nodes to look at, each once at a time, first come first served."""

    def __init__(self, nodes: Iterable[fx.Node]) -> None:
        self._queue = deque(nodes)
        self._waiting = set(self._queue)

    def pop(self) -> fx.Node | None:
        """Returns the next node that is still part of its graph, None at the end."""
        while self._queue:
            node = self._queue.popleft()
            self._waiting.discard(node)
            if not is_erased(node):
                return node
        return None

    def extend(self, nodes: Iterable[fx.Node]) -> None:
        """Adds calls that do not wait already."""
        for node in nodes:
            if node.op == "call_function" and node not in self._waiting:
                self._waiting.add(node)
                self._queue.append(node)


def _finish(
    graph: QGraph, old: fx.Node, new: fx.Node, known: set[fx.Node], operands: list[fx.Node]
) -> list[fx.Node]:
    """Puts the replacement in place and returns the nodes that deserve another look."""
    made = [n for n in graph.module.graph.nodes if n not in known]
    for node in made:
        if origin_of(node) == Origin():
            set_origin(node, origin_of(old))
    if new is not old:
        graph.replace(old, new)
    around = _erase_unused(graph, operands)
    return [*made, new, *new.users, *around]


def _erase_unused(graph: QGraph, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Erases nodes that nothing reads, and their operands in turn; returns those that stay."""
    stay, waiting = [], list(nodes)
    while waiting:
        node = waiting.pop()
        if is_erased(node):
            continue
        if node.users or node.op not in ("call_function", "get_attr"):
            stay.append(node)
            continue
        waiting.extend(node.all_input_nodes)
        graph.erase(node)
    return stay


def _other_type(rule: RewriteRule, old: fx.Node, new: fx.Node) -> QCompilerError:
    return QCompilerError(
        "QC0504",
        f"rule {rule.name!r} replaces {type_of(old)} by {type_of(new)}",
        node=old.name,
        source=origin_of(old).source,
        remedy="correct the rule, or give it keeps_type=False",
    )


def _no_result(rule: RewriteRule, node: fx.Node, found: object) -> QCompilerError:
    return QCompilerError(
        "QC0511",
        f"rule {rule.name!r} returned {'None' if found is None else type(found).__name__}",
        node=node.name,
        source=origin_of(node).source,
        remedy='return the new node, or NoMatch("why") and leave the graph alone',
    )


def _endless(last: Sequence[Applied]) -> QCompilerError:
    trail = ", ".join(f"{a.rule} at %{a.old}" for a in last)
    return QCompilerError(
        "QC0511",
        f"the rewrite rules do not come to an end; the last ones were {trail}",
        remedy="let each rule leave a graph that no other rule turns back",
    )
