"""What the command line reads and writes: MODEL, DATA, and files of tensors."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.sources import traceback_frames, user_line

_MODEL_FORM = (
    "write package.module:callable; the callable takes no arguments and returns "
    "(model, example inputs, calibration data)"
)
_DATA_FORM = (
    "write package.module:callable; the callable takes no arguments and returns an iterable of "
    "batches"
)

# Names that say no more than the order of tensors.
_NUMBERED = re.compile(r"(?:in|out)put(\d+)")


def read_overrides(rules: Sequence[str]) -> dict[str, str]:
    """Returns ``WHERE=WHAT`` rules of the command line by where they apply.

    Raises:
        QCompilerError: QC0304 for a rule without ``=``, QC0307 for two rules of one place.
    """
    found: dict[str, str] = {}
    for rule in rules:
        where, equals, what = rule.rpartition("=")
        if not equals:
            remedy = "write it as 'blocks.3.*=w8a8'"
            raise QCompilerError("QC0304", f"{rule!r} is no override", remedy=remedy)
        if found.setdefault(where, what) != what:
            problem = f"{where}={found[where]} and {rule} contradict each other"
            raise QCompilerError("QC0307", problem, remedy="leave one of them out")
    return found


class ModelSource(NamedTuple):
    """A model or the path of its .pt2 file, example inputs if known, and calibration data."""

    model: nn.Module | Path
    inputs: tuple[object, ...] | None
    data: Iterable[object]


def load_model(text: str, data: str | None) -> ModelSource:
    """Returns what MODEL and DATA of the command line name.

    Args:
        text: ``package.module:callable`` or the path of a .pt2 file.
        data: ``package.module:callable`` that returns calibration batches.

    Raises:
        QCompilerError: one of them does not follow its form (QC0901, QC0904).
    """
    if text.endswith(".pt2"):
        path = Path(text)
        if not path.is_file():
            raise QCompilerError("QC0901", f"there is no file {text!r}", remedy="check the path")
        if data is None:
            raise QCompilerError(
                "QC0901",
                f"{text!r} comes without calibration data",
                remedy="add --data package.module:callable",
            )
        return ModelSource(path, None, load_data(data))
    made = _call("MODEL", text, "QC0901", _MODEL_FORM)
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module)):
        raise QCompilerError(
            "QC0901",
            f"{text!r} returned {_describe(made)} instead of the three",
            remedy=_MODEL_FORM,
        )
    model, inputs, own = made
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return ModelSource(model, inputs, own if data is None else load_data(data))


def load_data(text: str) -> Iterable[object]:
    """Returns the calibration batches that DATA of the command line names.

    Raises:
        QCompilerError: it does not follow its form (QC0904).
    """
    made = _call("DATA", text, "QC0904", _DATA_FORM)
    is_model = isinstance(made, tuple) and len(made) > 0 and isinstance(made[0], nn.Module)
    if is_model or isinstance(made, (Tensor, nn.Module)) or not isinstance(made, Iterable):
        raise QCompilerError(
            "QC0904",
            f"DATA {text!r} returned {_describe(made)} instead of an iterable of batches",
            remedy="return only the batches, as a list, a generator or a DataLoader",
        )
    return made


def check_writable(path: Path) -> None:
    """Checks before long work that a file can be written.

    Raises:
        QCompilerError: its folder is missing or read-only, or the path is a folder (QC0604).
    """
    folder = path.resolve().parent
    if path.is_dir():
        problem = f"{str(path)!r} is a folder"
    elif not folder.is_dir():
        problem = f"there is no folder {str(folder)!r}"
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {str(folder)!r} is not writable"
    else:
        return
    raise QCompilerError("QC0604", problem, remedy="choose another path with -o")


def read_tensors(paths: Sequence[Path], wanted: Sequence[str]) -> list[Tensor]:
    """Reads a program's inputs from files: one from a .npy file, all of a .safetensors file.

    Named tensors are assigned by name when their names are the wanted ones. They keep their order
    when they are called ``input0``, ``output0`` and so on, or stand alone in their files.

    Raises:
        QCompilerError: a file is missing or not of these forms, or the names fit neither rule
            (QC0902).
    """
    read = [_read(path) for path in paths]
    found = [item for tensors in read for item in tensors.items()]
    if sorted(name for name, _ in found) == sorted(wanted):
        named = dict(found)
        return [named[name] for name in wanted]
    for tensors in read:
        if len(tensors) > 1 and not all(map(_NUMBERED.fullmatch, tensors)):
            raise QCompilerError(
                "QC0902",
                f"the files name {', '.join(name for name, _ in found)}; the program's inputs are "
                f"{', '.join(wanted)}",
                remedy="give the tensors the names of the inputs, or one file each, in order",
            )
    return [tensor for tensors in read for _, tensor in sorted(tensors.items(), key=_place)]


def write_tensors(path: Path, results: object) -> Iterator[str]:
    """Writes a program's results and yields a line of text for each tensor.

    The members of a dict go by their keys, those of a sequence are ``output0`` and so on, and the
    names of nested ones have dots between; what is no tensor is left out.

    Raises:
        QCompilerError: the file's ending is unknown, not one tensor was to go to a .npy file, or
            writing failed (QC0902).
    """
    named: dict[str, Tensor] = {}
    for name, tensor in _flat(results, ""):
        while name in named:
            name += "_"
        named[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    if path.suffix not in (".npy", ".safetensors") or (path.suffix == ".npy" and len(named) != 1):
        raise QCompilerError(
            "QC0902",
            f"{counted(len(named), 'tensor')} cannot be written to {str(path)!r}",
            remedy="choose a path that ends in .safetensors",
        )
    try:
        if path.suffix == ".npy":
            np.save(path, next(iter(named.values())).numpy())
        else:
            safetensors.torch.save_file(named, path)
    except (OSError, safetensors.SafetensorError) as cause:
        raise QCompilerError("QC0902", str(cause), remedy="choose another path with -o") from cause
    for name, tensor in named.items():
        yield f"{name}: {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} -> {path}"


def _flat(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "output0", value
        return
    members: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        members = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (tuple, list)):
        members = [(f"output{i}", item) for i, item in enumerate(value)]
    for key, item in members:
        yield from _flat(item, f"{name}.{key}" if name else key)


def _read(path: Path) -> dict[str, Tensor]:
    remedy = "save the tensor with numpy.save or safetensors.torch.save_file"
    try:
        if path.suffix == ".npy":
            return {path.name: torch.from_numpy(np.load(path, allow_pickle=False))}
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
    except (OSError, ValueError, TypeError, EOFError, safetensors.SafetensorError) as cause:
        problem = f"{str(path)!r} cannot be read: {cause}"
        raise QCompilerError("QC0902", problem, remedy=remedy) from cause
    raise QCompilerError(
        "QC0902", f"{str(path)!r} ends in neither .npy nor .safetensors", remedy=remedy
    )


def _place(item: tuple[str, Tensor]) -> int:
    numbered = _NUMBERED.fullmatch(item[0])
    return int(numbered[1]) if numbered else 0


def _call(what: str, text: str, code: str, form: str) -> object:
    module_name, colon, attribute = text.partition(":")
    if module_name.endswith(".py"):
        path = Path(module_name).with_suffix("").as_posix().replace("/", ".").strip(".")
        attribute = attribute or "NAME"
        raise QCompilerError(
            code,
            f"{what} {text!r} names a file",
            remedy=f"write {path}:{attribute}; {form.partition('; ')[2]}",
        )
    if not (module_name and colon and attribute):
        raise QCompilerError(code, f"{what} {text!r} is not package.module:callable", remedy=form)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
    try:
        made: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
    except Exception as cause:  # the module may raise anything
        kind = "" if isinstance(cause, (ImportError, AttributeError)) else _kind(cause)
        problem = f"{what} {text!r} cannot be imported: {kind}{_message(cause)}"
        raise QCompilerError(code, problem, source=_source(cause), remedy=form) from cause
    if not callable(made):
        raise QCompilerError(code, f"{what} {text!r} is no callable", remedy=form)
    if required := _required(made):
        problem = f"{what} {text!r} requires the arguments {', '.join(required)}"
        raise QCompilerError(code, problem, remedy=form)
    try:
        return cast(object, made())
    except QCompilerError:
        raise
    except Exception as cause:
        raise QCompilerError(
            code,
            f"{what} {text!r} failed: {_kind(cause)}{_message(cause)}",
            source=_source(cause),
            remedy="call it in Python until it returns",
        ) from cause


def _required(made: Callable[..., object]) -> list[str]:
    """Returns the names of the parameters that a callable has no defaults for."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except ValueError:
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    empty = inspect.Parameter.empty
    return [p.name for p in parameters if p.default is empty and p.kind not in open_ended]


def _kind(cause: Exception) -> str:
    return f"{type(cause).__name__}: "


def _message(cause: Exception) -> str:
    return cause.msg if isinstance(cause, SyntaxError) else str(cause)


def _source(cause: Exception) -> str | None:
    """Returns the line of the user's code at which an exception was raised."""
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"{cause.filename}:{cause.lineno}"
    return user_line(traceback_frames(cause.__traceback__))


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__
