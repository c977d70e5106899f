"""What the command line reads and writes: MODEL, DATA, and files of tensors."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from qcompiler.errors import QCompilerError

_FORM = (
    "write package.module:callable; the callable takes no arguments and returns "
    "(model, example inputs, calibration data)"
)


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
        QCompilerError: one of them does not follow its form (QC0901).
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
    made = _call("MODEL", text)
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module)):
        raise QCompilerError(
            "QC0901", f"{text!r} returned {_describe(made)} instead of the three", remedy=_FORM
        )
    model, inputs, own = made
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return ModelSource(model, inputs, own if data is None else load_data(data))


def load_data(text: str) -> Iterable[object]:
    """Returns the calibration batches that DATA of the command line names.

    Raises:
        QCompilerError: it does not follow its form (QC0901).
    """
    made = _call("DATA", text)
    if isinstance(made, Tensor) or not isinstance(made, Iterable):
        raise QCompilerError(
            "QC0901",
            f"{text!r} returned {_describe(made)} instead of an iterable of batches",
            remedy="return a list, a generator or a DataLoader",
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


def read_tensors(paths: Sequence[Path]) -> list[Tensor]:
    """Reads tensors in order: one from a .npy file, all in order of their names from .safetensors.

    Raises:
        QCompilerError: a file is missing or not of these forms (QC0902).
    """
    return [tensor for path in paths for tensor in _read(path)]


def write_tensors(path: Path, results: object) -> Iterator[str]:
    """Writes one or several tensors and yields a line of text for each of them.

    Raises:
        QCompilerError: the file's ending is unknown, several tensors were to go to one .npy file,
            or writing failed (QC0902).
    """
    tensors = [results] if isinstance(results, Tensor) else list(cast(Iterable[Tensor], results))
    if path.suffix not in (".npy", ".safetensors") or (path.suffix == ".npy" and len(tensors) > 1):
        raise QCompilerError(
            "QC0902",
            f"{len(tensors)} tensors cannot be written to {str(path)!r}",
            remedy="choose a path that ends in .safetensors",
        )
    named = {f"output{i}": tensor.contiguous() for i, tensor in enumerate(tensors)}
    try:
        if path.suffix == ".npy":
            np.save(path, tensors[0].numpy())
        else:
            safetensors.torch.save_file(named, path)
    except OSError as cause:
        raise QCompilerError("QC0902", str(cause), remedy="choose another path with -o") from cause
    for name, tensor in named.items():
        yield f"{name}: {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} -> {path}"


def _read(path: Path) -> list[Tensor]:
    remedy = "save the tensor with numpy.save or safetensors.torch.save_file"
    try:
        if path.suffix == ".npy":
            return [torch.from_numpy(np.load(path, allow_pickle=False))]
        if path.suffix == ".safetensors":
            named = safetensors.torch.load_file(path)
            return [named[name] for name in sorted(named)]
    except (OSError, ValueError, TypeError, EOFError, safetensors.SafetensorError) as cause:
        problem = f"{str(path)!r} cannot be read: {cause}"
        raise QCompilerError("QC0902", problem, remedy=remedy) from cause
    raise QCompilerError(
        "QC0902", f"{str(path)!r} ends in neither .npy nor .safetensors", remedy=remedy
    )


def _call(what: str, text: str) -> object:
    module_name, colon, attribute = text.partition(":")
    if not (module_name and colon and attribute):
        raise QCompilerError(
            "QC0901", f"{what} {text!r} is not package.module:callable", remedy=_FORM
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
    try:
        made = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError) as cause:
        problem = f"{what} {text!r} cannot be imported: {cause}"
        raise QCompilerError("QC0901", problem, remedy=_FORM) from cause
    if not callable(made):
        raise QCompilerError("QC0901", f"{what} {text!r} is no callable", remedy=_FORM)
    try:
        return cast(object, made())
    except QCompilerError:
        raise
    except Exception as cause:
        place = traceback.extract_tb(cause.__traceback__)[-1]
        raise QCompilerError(
            "QC0901",
            f"{what} {text!r} failed: {type(cause).__name__}: {cause}",
            source=f"{place.filename}:{place.lineno}",
            remedy="call it in Python until it returns",
        ) from cause


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__
