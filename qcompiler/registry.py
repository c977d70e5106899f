"""Names of passes, targets and operators -> the objects behind them, loaded at first use.

Built-in names stand in the ``ENTRY_POINTS`` tables of ``qcompiler.passes`` and
``qcompiler.backends``; names of third parties are package entry points of the same groups
(https://packaging.python.org/specifications/entry-points/). Both are read by the same code, so a
plug-in can do whatever a built-in can.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import NamedTuple

from qcompiler.errors import QCompilerError, nearest

PASSES = "qcompiler.passes"
TARGETS = "qcompiler.targets"
OPS = "qcompiler.ops"
LOWERINGS = "qcompiler.lowerings"
PIPELINES = "qcompiler.pipelines"
SENSITIVITIES = "qcompiler.sensitivities"

_TABLES = ("qcompiler.passes", "qcompiler.backends")


class _Group(NamedTuple):
    noun: str
    unknown: str  # code of the error for an unknown name
    listing: str  # where the user sees the known names


_GROUPS = {
    PASSES: _Group("pass", "QC0501", "`qcompiler passes` lists them"),
    TARGETS: _Group("target", "QC0506", "`qcompiler targets` lists them"),
    PIPELINES: _Group("pipeline", "QC0501", "`qcompiler passes` lists the passes"),
    SENSITIVITIES: _Group(
        "metric of sensitivity", "QC0501", "`qcompiler passes measure-sensitivity` tells them"
    ),
    OPS: _Group("operator", "QC0509", "docs/reference/ops.md lists them"),
    LOWERINGS: _Group("lowering", "QC0509", "docs/reference/ops.md lists the operators"),
}


class Entry(NamedTuple):
    """One registered name: the place of its object and the package that registered it."""

    name: str
    place: str  # "module:attribute"
    owner: str


def names(group: str) -> list[str]:
    """Returns the sorted names of a group; loads none of them."""
    return sorted(_table(group))


def owner(group: str, name: str) -> str:
    """Returns the package that registered a name.

    Raises:
        QCompilerError: the name is unknown (QC0501, QC0506, QC0509).
    """
    return _entry(group, name).owner


def load(group: str, name: str) -> object:
    """Imports and returns the object registered under a name.

    Raises:
        QCompilerError: the name is unknown (QC0501, QC0506, QC0509), is registered twice in its
            group (QC0505), or its object cannot be imported (QC0510).
    """
    entry = _entry(group, name)
    module_name, _, attribute = entry.place.partition(":")
    try:
        value: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as cause:
        noun = _GROUPS[group].noun
        raise QCompilerError(
            "QC0510",
            f"the {noun} {name!r} of {entry.owner} cannot be imported from {entry.place}: {cause}",
            remedy=f"repair or uninstall {entry.owner}",
        ) from cause
    return value


def refresh() -> None:
    """Forgets the tables, so that a package installed since is seen."""
    _table.cache_clear()


def _entry(group: str, name: str) -> Entry:
    table = _table(group)
    if name not in table:
        kind = _GROUPS[group]
        raise QCompilerError(
            kind.unknown,
            f"there is no {kind.noun} {name!r}",
            remedy=f"{nearest(name, table)} ({kind.listing})",
        )
    return table[name]


@functools.cache
def _table(group: str) -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for entry in _registrations(group):
        first = table.setdefault(entry.name, entry)
        if first is not entry:
            raise QCompilerError(
                "QC0505",
                f"the {_GROUPS[group].noun} {entry.name!r} is registered by {first.owner} "
                f"({first.place}) and by {entry.owner} ({entry.place})",
                remedy="rename one of the two or uninstall the package that owns it",
            )
    return table


def _registrations(group: str) -> Iterator[Entry]:
    for module_name in _TABLES:
        builtin: dict[str, dict[str, str]] = importlib.import_module(module_name).ENTRY_POINTS
        for name, place in builtin.get(group, {}).items():
            yield Entry(name, place, "qcompiler")
    for point in entry_points(group=group):
        owner_name = point.dist.name if point.dist is not None else "an unnamed package"
        yield Entry(point.name, point.value, owner_name)
