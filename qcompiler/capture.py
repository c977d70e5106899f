"""Capture: a model becomes a graph at the stage ``traced``.

torch.export does the tracing and is kept at the level of conv2d and linear (no decompositions).
"""

from __future__ import annotations

import inspect
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NoReturn

import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from qcompiler.errors import QCompilerError, counted, nearest
from qcompiler.ir.annotations import capture_facts
from qcompiler.ir.exported import read_exported, refuse_precision
from qcompiler.ir.graph import QGraph
from qcompiler.ir.sources import frames_of, traceback_frames, user_line
from qcompiler.ir.types import BATCH
from qcompiler.torch_compat import GuardOnDataDependentSymNode, symbol_of

# Per input, the names of its dynamic dimensions: {0: "batch"} or {0: torch.export.Dim("batch")}.
DimNames = Mapping[Any, Any]
DynamicShapes = Mapping[str, DimNames | None] | Sequence[DimNames | None]

_CONSTRAINT = re.compile(r"^ +- ([^\n]+?)(?:\. If|\n|$)", re.MULTILINE)
_SUGGESTED = re.compile(r"Dim\('\w+', min=[^)]*\)")
_DIMENSION = re.compile(r"L(\['\w+'\](?:\[\d+\])?)\.size\(\)\[(\d+)\]")
_DATA_DEPENDENT = ("Data-dependent", "data-dependent", "dynamic control flow", "Dynamic control")


def capture(
    model: nn.Module | ExportedProgram | str | Path,
    example_inputs: Tensor | Sequence[Tensor] = (),
    dynamic_shapes: DynamicShapes | None = None,
) -> QGraph:
    """Traces a model in eval mode and returns its graph; the model itself is left as it was.

    Args:
        model: a module, an exported program, or the path of one (``.pt2``).
        example_inputs: one tensor per input of the module; an exported program needs none.
        dynamic_shapes: names of dynamic dimensions by input, as ``{"x": {0: "batch"}}`` or one
            mapping per input; dimensions of one name are equal. None makes dimension 0 of every
            input dynamic under the name ``batch``; ``()`` makes every dimension fixed.

    Raises:
        QCompilerError: QC0101 control flow that depends on data, QC0102 another failure of the
            export, QC0105 a parameter that is not finite, QC0107 no model, QC0108 a forward method
            that changes its inputs or state, QC0109 another precision than float32, QC0110
            dynamic_shapes that do not fit the inputs.
    """
    if isinstance(model, (str, Path)):
        model = _load(Path(model))
    declared: Sequence[Mapping[Any, Any]] = ()
    if isinstance(model, nn.Module):
        inputs = _check_inputs(example_inputs)
        _check_precision(model, inputs)
        declared = _dim_names(inputs, _parameters(model), dynamic_shapes)
        by_user = dynamic_shapes is not None
        model = _export(model, _widen(inputs, declared), declared, by_user=by_user)
    elif not isinstance(model, ExportedProgram):
        raise QCompilerError(
            "QC0107",
            f"the model is of type {type(model).__name__}",
            remedy="give an nn.Module, the result of torch.export.export, or the path of a .pt2",
        )
    return read_exported(model, _symbol_names(model, declared))


def _load(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise QCompilerError(
            "QC0107", f"there is no file {str(path)!r}", remedy="give the path of a .pt2 file"
        )
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as error:  # torch raises many kinds for files of another form
        raise QCompilerError(
            "QC0107",
            f"{str(path)!r} is no exported program: {_first_line(error)}",
            remedy="write it with torch.export.save under the same release of torch",
        ) from error


# -- inputs and their dynamic dimensions -------------------------------------------------------


def _check_inputs(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    for position, value in enumerate(given):
        if not isinstance(value, Tensor):
            raise QCompilerError(
                "QC0102",
                f"example input {position} is of type {type(value).__name__}",
                remedy="give a tuple of tensors; fix other arguments in a module that wraps it",
            )
    return tuple(value.detach().cpu() for value in given)


def _check_precision(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        if held.is_floating_point() and held.dim() and held.dtype != torch.float32:
            refuse_precision(f"the parameter {name!r} is {held.dtype}")
    for position, value in enumerate(inputs):
        if value.is_floating_point() and value.dtype != torch.float32:
            refuse_precision(f"example input {position} is {value.dtype}")


def _parameters(model: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(model.forward).parameters.values()
    return [p.name for p in found if p.kind in kinds]


def _dim_names(
    inputs: Sequence[Tensor], parameters: Sequence[str], asked: DynamicShapes | None
) -> list[dict[Any, Any]]:
    """Returns, per input, the name or torch Dim of each dynamic dimension."""
    if asked is None:
        names: list[dict[Any, Any]] = [{0: BATCH} if value.dim() else {} for value in inputs]
    elif isinstance(asked, Mapping):
        for name in asked:
            if name not in parameters[: len(inputs)]:
                _refuse_shapes(
                    f"dynamic_shapes names the input {name!r}",
                    nearest(str(name), parameters[: len(inputs)]),
                )
        by_name = [asked.get(name) for name in parameters[: len(inputs)]]
        names = [dict(entry or {}) for entry in by_name]
        names += [{} for _ in inputs[len(names) :]]
    else:
        if asked and len(asked) != len(inputs):
            _refuse_shapes(
                f"dynamic_shapes has {len(asked)} entries for {counted(len(inputs), 'input')}",
                "give one mapping per input, {} for a fixed shape",
            )
        names = [dict(entry or {}) for entry in asked] or [{} for _ in inputs]
    _check_sizes(inputs, names, by_default=asked is None)
    return names


def _check_sizes(
    inputs: Sequence[Tensor], names: Sequence[dict[Any, Any]], *, by_default: bool
) -> None:
    sizes: dict[str, int] = {}
    for position, (value, dims) in enumerate(zip(inputs, names, strict=True)):
        for dim, name in dims.items():
            text = _text(name)
            if not text.isidentifier() or not isinstance(dim, int) or not 0 <= dim < value.dim():
                _refuse_shapes(
                    f"dynamic_shapes calls dimension {dim!r} of input {position} {text!r}; the "
                    f"input has rank {value.dim()}",
                    "name dimensions 0 to rank - 1 with identifiers",
                )
            first = sizes.setdefault(text, value.shape[dim])
            if first != value.shape[dim]:
                _refuse_shapes(
                    f"dimension {text!r} is {first} in one example input and "
                    f"{value.shape[dim]} in input {position}",
                    "name the dynamic dimensions of each input with dynamic_shapes"
                    if by_default
                    else "give dimensions of different sizes different names",
                )


def _refuse_shapes(problem: str, remedy: str) -> NoReturn:
    raise QCompilerError("QC0110", problem, remedy=remedy)


def _text(name: Any) -> str:
    return name if isinstance(name, str) else str(getattr(name, "__name__", ""))


def _widen(inputs: Sequence[Tensor], names: Sequence[Mapping[Any, Any]]) -> tuple[Tensor, ...]:
    """Returns the inputs with dynamic dimensions of size 1 doubled: torch would fix them at 1."""
    widened = []
    for value, dims in zip(inputs, names, strict=True):
        repeats = [2 if d in dims and size == 1 else 1 for d, size in enumerate(value.shape)]
        widened.append(value.repeat(repeats) if 2 in repeats else value)
    return tuple(widened)


def _symbol_names(
    program: ExportedProgram, declared: Sequence[Mapping[Any, Any]]
) -> dict[sympy.Symbol, str]:
    """Returns our name of each symbol: the declared one, else ``batch`` for dimension 0."""
    names: dict[sympy.Symbol, str] = {}
    placeholders = {n.name: n for n in program.graph_module.graph.nodes if n.op == "placeholder"}
    for position, name in enumerate(program.graph_signature.user_inputs):
        value = capture_facts(placeholders[str(name)])[0] if name in placeholders else None
        given = declared[position] if position < len(declared) else {}
        for dim, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            theirs = symbol_of(size)
            if theirs is None or theirs in names:
                continue
            free = BATCH if dim == 0 and BATCH not in names.values() else f"{name}_{dim}"
            names[theirs] = _text(given[dim]) if dim in given else free
    return names


# -- export ------------------------------------------------------------------------------------


def _export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[Mapping[Any, Any]],
    *,
    by_user: bool,
) -> ExportedProgram:
    """Exports by running the forward method on fake tensors, or else from its bytecode."""
    uses = Counter(_text(n) for entry in names for n in entry.values())
    made = {text: Dim(text) for text, count in uses.items() if count > 1}

    def dim_of(name: Any) -> Any:
        # A name used once may get the range that the model turns out to accept; for dimensions that
        # must be equal torch has only those that accept every size.
        return made.get(name, Dim.DYNAMIC) if isinstance(name, str) else name

    shapes = tuple({d: dim_of(n) for d, n in entry.items()} for entry in names)
    failures: list[Exception] = []
    for strict in (False, True):
        try:
            with _quiet(), _eval_mode(model):
                return torch.export.export(
                    model, inputs, dynamic_shapes=_per_argument(model, shapes), strict=strict
                )
        except Exception as error:  # the forward method may raise anything
            failures.append(error)
    raise _failed(failures, by_user=by_user) from failures[0]


def _per_argument(model: nn.Module, shapes: tuple[dict[Any, Any], ...]) -> Any:
    """Groups the shapes as torch.export wants them: those of ``*args`` are one tuple."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    fixed = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:fixed], shapes[fixed:])


def _failed(failures: Sequence[Exception], *, by_user: bool) -> QCompilerError:
    """Returns the error for the failures of both ways to export; the first is the plainer one.

    ``by_user`` says that dynamic_shapes declared the dimensions that are dynamic.
    """
    lines = [line for error in failures if (line := _line_of(error)) is not None]
    source = lines[0] if lines else None
    if any(_depends_on_data(error) for error in failures):
        return QCompilerError(
            "QC0101",
            "the forward method branches on the value of a tensor",
            source=source,
            remedy="write the choice with torch.where, or take it out of the forward method",
        )
    problem = _DIMENSION.sub(r"dimension \2 of \1", str(failures[0]))
    if "Constraints violated" in problem:
        reason = _CONSTRAINT.search(problem)
        remedy = "declare the dimensions that may vary with dynamic_shapes; () fixes all"
        if by_user:
            wider = _SUGGESTED.search(problem)
            remedy = (
                "declare a larger minimum in dynamic_shapes, as torch.export."
                f"{wider[0] if wider else 'Dim(name, min=...)'}, or leave the dimension out to"
                " fix it"
            )
        return QCompilerError(
            "QC0102",
            "the model does not accept every size of a dynamic dimension"
            + (f": {reason[1].strip()}" if reason else ""),
            source=source,
            remedy=remedy,
        )
    kind = type(failures[0]).__name__
    return QCompilerError(
        "QC0102",
        f"torch.export failed: {kind}: {_first_line(failures[0])}",
        source=source,
        remedy="run the model on the example inputs; the chained error is torch's own",
    )


def _depends_on_data(error: BaseException) -> bool:
    if isinstance(error, GuardOnDataDependentSymNode):
        return True
    return any(text in str(error) for text in _DATA_DEPENDENT)


def _line_of(error: BaseException) -> str | None:
    real = [f'File "{f.filename}", line {f.lineno}, in _\n {f.line}' for f in _real_stack(error)]
    for frames in (
        traceback_frames(error.__traceback__),
        frames_of("\n".join(real)),
        frames_of(str(error)),
    ):
        line = user_line(frames)
        if line is not None:
            return line
    return None


def _real_stack(error: BaseException) -> Sequence[Any]:
    return getattr(error, "real_stack", None) or ()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Sets eval mode for a block and then each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what torch logs, prints and warns about its own internals off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
