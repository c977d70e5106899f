"""Writes docs/reference from the source: python docs/generate.py [--check]."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from qcompiler import registry
from qcompiler.errors import CATALOG
from qcompiler.ir.float_ops import FLOAT_OPS
from qcompiler.ir.integer_ops import INTEGER_OPS
from qcompiler.passmgr.describe import PassDescription, describe_pass

REFERENCE = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py; change the source instead. -->"

_BLOCKS = {
    "QC01": "Capture and inputs of the compiler",
    "QC02": "Operators",
    "QC03": "Ranges and quantization parameters",
    "QC04": "Proofs",
    "QC05": "Pass manager and registry",
    "QC06": "Text IR and artifacts",
    "QC07": "Running",
    "QC08": "Tools and extras",
    "QC09": "Command line",
}
_FOLDERS = {
    "analysis": "Analysis: computes facts and annotates them",
    "rewrite": "Rewrite: changes the float graph",
    "lowering": "Lowering: to integer operators, and over those",
}


def pages() -> dict[str, str]:
    """Returns file name -> text of every generated page."""
    made = {"passes.md": _passes(), "ops.md": _ops(), "errors.md": _errors()}
    return {name: "\n".join([_NOTE, *lines]) + "\n" for name, lines in made.items()}


def _passes() -> Iterator[str]:
    yield "# Passes"
    yield ""
    yield "Every pass that comes with qcompiler, by folder of `passes/`. A pipeline is their names"
    yield "with options as text: `name{option=value other=1,2},name`."
    known = registry.names(registry.PASSES)
    described = [d for d in map(describe_pass, known) if d.owner == "qcompiler"]
    for folder, title in _FOLDERS.items():
        yield from ("", f"## {title}")
        for one in described:
            if f".passes.{folder}." in one.module:
                yield from _pass(one)


def _pass(one: PassDescription) -> Iterator[str]:
    yield from ("", f"### {one.name}", "", one.summary)
    rest = one.text.partition("\n")[2].strip("\n")
    if rest:
        yield from ("", "```text", rest, "```")
    yield from ("", f"Needs {one.needs}. Gives {one.gives}.")
    if one.options:
        yield from ("", "| option | type | default |", "| --- | --- | --- |")
        for option in one.options:
            kind = option.type.replace("|", "or")
            default = "" if option.default is None else f"`{option.default}`"
            yield f"| `{option.name}` | {kind} | {default} |"


def _ops() -> Iterator[str]:
    yield "# Operators"
    yield ""
    yield "The signatures are those of `torch.library`; [numerics.md](../numerics.md) derives the"
    yield "arithmetic. `int[4] padding` is (top, bottom, left, right), `int[2]` (height, width)."
    yield from ("", "## Integer operators", "")
    yield "Exact on integers. A program for a target consists of these alone."
    for name, op in sorted(INTEGER_OPS.items()):
        yield from _op(name, op.schema, inspect.getdoc(op.reference))
    yield from ("", "## Normalized float operators", "")
    yield "What `normalize-ops` leaves of a captured model; the operators that only move data are"
    yield "the integer ones above."
    for name, float_op in sorted(FLOAT_OPS.items()):
        if name not in INTEGER_OPS:
            yield from _op(name, float_op.schema, inspect.getdoc(float_op.eager))


def _op(name: str, schema: str, text: str | None) -> Iterator[str]:
    yield from ("", f"### {name}", "", "```text", schema, "```")
    if text:
        yield from ("", text)


def _errors() -> Iterator[str]:
    yield "# Errors"
    yield ""
    yield "Each error names the rule that was broken, what broke it, a remedy, and where there is"
    yield "one the node and the line of the user's model. `qcompiler explain-error CODE` prints the"
    yield "rule."
    for block, title in _BLOCKS.items():
        yield from ("", f"## {title}", "", "| code | rule |", "| --- | --- |")
        yield from (f"| {code} | {rule} |" for code, rule in CATALOG.items() if code[:4] == block)


def main() -> None:
    """Writes the pages, or with --check names those that are not current and fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if not current")
    check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = REFERENCE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                REFERENCE.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"not current: {', '.join(stale)}; run python docs/generate.py")


if __name__ == "__main__":
    main()
