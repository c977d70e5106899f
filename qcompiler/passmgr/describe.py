"""Registered passes and targets in words, for the command line and the catalogue."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple

from qcompiler import registry
from qcompiler.passmgr.base import Pass
from qcompiler.passmgr.options import format_value
from qcompiler.target.base import Target


class Option(NamedTuple):
    """An option: its name, its type and its default as text; no default if it must be given."""

    name: str
    type: str
    default: str | None


class PassDescription(NamedTuple):
    """A pass in words."""

    name: str
    owner: str
    module: str
    summary: str
    text: str
    needs: str
    gives: str
    options: tuple[Option, ...]


def pass_class(name: str) -> type[Pass]:
    """Returns the class of a registered pass.

    Raises:
        QCompilerError: the name is unknown (QC0501) or its object cannot be imported (QC0510).
        TypeError: the registered object is no subclass of Pass.
    """
    found = registry.load(registry.PASSES, name)
    if not (isinstance(found, type) and issubclass(found, Pass)):
        problem = (
            f"{registry.owner(registry.PASSES, name)} registers {found!r} as the pass {name!r}"
        )
        raise TypeError(problem)
    return found


def target_class(name: str) -> type[Target]:
    """Returns the class of a registered target.

    Raises:
        QCompilerError: the name is unknown (QC0506) or its object cannot be imported (QC0510).
        TypeError: the registered object is no subclass of Target.
    """
    found = registry.load(registry.TARGETS, name)
    if not (isinstance(found, type) and issubclass(found, Target)):
        owner = registry.owner(registry.TARGETS, name)
        problem = f"{owner} registers {found!r} as the target {name!r}"
        raise TypeError(problem)
    return found


def describe_pass(name: str) -> PassDescription:
    """Returns a registered pass in words."""
    described = pass_class(name)
    text = inspect.getdoc(described) or ""
    return PassDescription(
        name,
        registry.owner(registry.PASSES, name),
        described.__module__,
        text.partition("\n")[0],
        text,
        _needs(described),
        _gives(described),
        options_of(described),
    )


def options_of(described: type[Pass] | type[Target]) -> tuple[Option, ...]:
    """Returns the options of a pass or target."""
    return tuple(Option(f.name, _type(f), _default(f)) for f in fields(described))


def _needs(described: type[Pass]) -> str:
    needs = described.needs
    stages = needs.stage.text
    if needs.last != needs.stage:
        stages += f" to {needs.last.text}"
    return ", ".join((f"stage {stages}", *needs.properties))


def _gives(described: type[Pass]) -> str:
    gives = described.gives
    parts = [] if gives.stage is None else [f"stage {gives.stage.text}"]
    parts += gives.properties
    parts += [f"no longer {name}" for name in gives.drops]
    return ", ".join(parts) or "nothing new"


def _type(field: Field[Any]) -> str:
    return field.type if isinstance(field.type, str) else field.type.__name__


def _default(field: Field[Any]) -> str | None:
    if field.default is not MISSING:
        return format_value(field.default)
    if field.default_factory is not MISSING:
        return format_value(field.default_factory())
    return None
