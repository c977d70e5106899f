"""What the command line prints of one pass or one target."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler import registry
from qcompiler.passmgr.describe import Option, PassDescription, options_of, target_class


def show_pass(console: Console, described: PassDescription) -> None:
    """Prints a pass in full."""
    console.print(f"{described.name} (of {described.owner})\n", highlight=False)
    console.print(plain(described.text), markup=False, highlight=False)
    console.print(f"\nneeds {described.needs}; gives {described.gives}", highlight=False)
    _show_options(console, described.options)


def show_target(console: Console, name: str) -> None:
    """Prints a target's datasheet."""
    described = target_class(name)
    owner = registry.owner(registry.TARGETS, name)
    console.print(f"{name} (of {owner}): {described.summary}\n", highlight=False)
    for fact, value in described.facts().items():
        console.print(f"{fact}: {value}", highlight=False)
    headings = ("\noperator", "\nvalues", "\nparameters", "\nfuses", "\noverwrites", "\nnote")
    table = Table(*headings, box=None, pad_edge=False)
    for op in described.ops:
        fused, over = ", ".join(op.fuses), ", ".join(op.in_place)
        table.add_row(op.name, op.values, op.weights, fused, over, escape(op.note))
    console.print(table)
    _show_options(console, options_of(described))


def _show_options(console: Console, options: Sequence[Option]) -> None:
    if not options:
        return
    table = Table("option", "type", "default", box=None, pad_edge=False)
    for option in options:
        table.add_row(option.name, escape(option.type), escape(option.default or ""))
    console.print("", table)


def plain(text: str) -> str:
    """Returns a docstring's text without its marks for code."""
    return text.replace("``", "")
