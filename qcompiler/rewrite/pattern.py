"""Patterns of operator calls, matched by the names of the operators' arguments.

Example: a batch norm whose input is a convolution that nothing else reads::

    op(batch_norm, x=one_use(op(conv2d, weight=const("weight")).named("conv")))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import fx

from qcompiler.ir.graph import argument, is_call, is_constant
from qcompiler.torch_compat import OpOverload


@dataclass(frozen=True)
class NoMatch:
    """Why a pattern does not match; the text is put together only when it is read."""

    template: str
    values: tuple[object, ...] = ()

    def __str__(self) -> str:
        return self.template.format(*self.values)


@dataclass(frozen=True)
class Match:
    """A match: the node at which the pattern starts, and what it captured by name."""

    root: fx.Node
    captures: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.captures[name]

    def node(self, name: str) -> fx.Node:
        """Returns a captured node; raises TypeError when a plain value was captured."""
        found = self.captures[name]
        if not isinstance(found, fx.Node):
            message = f"{name!r} captured {found!r}, which is no node"
            raise TypeError(message)
        return found


@dataclass(frozen=True)
class Pattern(ABC):
    """Base of all patterns; ``capture`` is the name under which the matched value is kept."""

    capture: str | None = field(default=None, kw_only=True)

    def named(self, capture: str) -> Self:
        """Returns the pattern with a name for what it matches.

        A name that stands twice in a pattern matches only the same value twice.
        """
        return replace(self, capture=capture)

    def find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        """Matches a value and adds to the captures; returns the reason when it does not match."""
        missed = self._find(value, captures)
        if missed is None and self.capture is not None:
            first = captures.setdefault(self.capture, value)
            if first is not value:
                return NoMatch("{} captured both {} and {}", (self.capture, first, value))
        return missed

    @abstractmethod
    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None: ...


@dataclass(frozen=True)
class Anything(Pattern):
    """Matches every value, a missing one (None) included."""

    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        return None


@dataclass(frozen=True)
class Const(Pattern):
    """Matches a node that reads a constant tensor."""

    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        return None if is_constant(value) else NoMatch("{} is no constant", (value,))


@dataclass(frozen=True)
class Equals(Pattern):
    """Matches a number, string, list or None that equals the given one."""

    value: Any

    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        plain = list(value) if isinstance(value, (list, tuple)) else value
        wanted = list(self.value) if isinstance(self.value, (list, tuple)) else self.value
        if type(plain) is type(wanted) and plain == wanted:
            return None
        return NoMatch("{} is not {}", (value, self.value))


@dataclass(frozen=True)
class OneUse(Pattern):
    """Matches a node that matches the inner pattern and has one user."""

    inner: Pattern

    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        missed = self.inner.find(value, captures)
        if missed is None and isinstance(value, fx.Node) and len(value.users) != 1:
            return NoMatch("{} has {} users", (value, len(value.users)))
        return missed


@dataclass(frozen=True)
class Where(Pattern):
    """Matches what the inner pattern matches and a test accepts; ``text`` says what it asks."""

    inner: Pattern
    test: Callable[[Any], bool]
    text: str

    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        missed = self.inner.find(value, captures)
        if missed is None and not self.test(value):
            return NoMatch("{} does not hold for {}", (self.text, value))
        return missed


@dataclass(frozen=True)
class Op(Pattern):
    """Matches a call of one of some operators whose named arguments match."""

    targets: tuple[OpOverload, ...]
    args: Mapping[str, Pattern]

    def _find(self, value: Any, captures: dict[str, Any]) -> NoMatch | None:
        if not is_call(value, *self.targets):
            return NoMatch("{} is no call of {}", (value, _Names(self.targets)))
        for name, pattern in self.args.items():
            missed = pattern.find(argument(value, name), captures)
            if missed is not None:
                return NoMatch("{} of {}: {}", (name, value, missed))
        return None


@dataclass(frozen=True)
class _Names:
    targets: tuple[OpOverload, ...]

    def __str__(self) -> str:
        return " or ".join(str(target) for target in self.targets)


def op(*targets: OpOverload, **args: Any) -> Op:
    """Returns the pattern of a call; an argument that is no pattern must be equal.

    Raises:
        TypeError: no operator is given, or one of them has no argument of a given name.
    """
    for target in targets:
        known = {arg.name for arg in target._schema.arguments}
        if unknown := args.keys() - known:
            message = f"{target} has no argument {min(unknown)!r}"
            raise TypeError(message)
    if not targets:
        message = "a pattern of a call names its operators"
        raise TypeError(message)
    patterns = {k: v if isinstance(v, Pattern) else Equals(v) for k, v in args.items()}
    return Op(targets, patterns)


def const(capture: str | None = None) -> Const:
    """Returns the pattern of a constant tensor."""
    return Const(capture=capture)


def anything(capture: str | None = None) -> Anything:
    """Returns the pattern that every value matches."""
    return Anything(capture=capture)


def one_use(inner: Pattern) -> OneUse:
    """Returns the pattern of a node that only the surrounding call reads."""
    return OneUse(inner)


def where(inner: Pattern, test: Callable[[Any], bool], text: str) -> Where:
    """Returns a pattern with a further condition; ``text`` states it in reasons."""
    return Where(inner, test, text)


def match(pattern: Pattern, node: fx.Node) -> Match | NoMatch:
    """Matches a pattern that starts at a node."""
    captures: dict[str, Any] = {}
    missed = pattern.find(node, captures)
    return Match(node, captures) if missed is None else missed
