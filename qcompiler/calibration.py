"""Calibration data: any iterable of batches, read once, checked, and partly kept."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import BATCH, TensorType, dtype_name, evaluate_dim

Batch = tuple[Tensor, ...]

_EMPTY = "leave empty batches out: they tell nothing of the values"

_FORMS = (
    "yield tensors, tuples of tensors, dicts by input name, or (input, label) pairs, "
    "with the batch as dimension 0"
)


class CalibrationData:
    """Batches of a model's inputs, streamed once; the first samples are kept for later passes.

    A batch is a tensor or numpy array, a tuple or list of one per input, a dict by input name, or
    a pair of these and a label, which is told from the inputs by number, type and shape.

    Args:
        data: an iterable of batches, a generator included; a single tensor or dict is one batch.
        keep: number of samples that are kept.
    """

    def __init__(self, data: Iterable[Any], keep: int = 64) -> None:
        if isinstance(data, (Tensor, np.ndarray, Mapping)):
            data = [data]
        if not isinstance(data, Iterable):
            raise QCompilerError(
                "QC0104",
                f"calibration data of type {type(data).__name__} cannot be iterated",
                remedy=_FORMS,
            )
        self.keep = keep
        self._data = data
        self._source: Iterator[Any] = iter(data)
        self._is_fresh = True
        self._ahead: list[Any] = []
        self._index = 0
        self._names: list[str] = []
        self._types: list[TensorType] = []
        self._kept: list[Batch] = []
        self._kept_samples = 0
        self._seen_samples = 0

    # -- before the model is captured ----------------------------------------------------------

    def example_inputs(self, model: object = None) -> Batch:
        """Returns the inputs in the first batch, which is still streamed later.

        Without a graph, the parameters of the model's forward method tell inputs from labels.

        Raises:
            QCompilerError: QC0103 without any batch, QC0104 for a batch of another form, or without
                any sample.
        """
        if not self._ahead:
            self._ahead.append(self._next_or_refuse())
        found = _by_signature(self._ahead[0], model)
        inputs = tuple(_to_tensor(value, 0, str(place)) for place, value in enumerate(found))
        for place, value in enumerate(inputs):
            if not value.numel():
                raise QCompilerError(
                    "QC0104",
                    f"calibration batch 0: input {str(place)!r} is {_describe(value)}",
                    remedy=_EMPTY,
                )
        return inputs

    def bind(self, graph: QGraph) -> None:
        """Sets the names and types that batches are checked against: those of a graph's inputs."""
        self._names = [str(node.target) for node in graph.inputs]
        self._types = [type_of(node) for node in graph.inputs]

    # -- reading -------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """Yields every batch, checked; keeps the first samples on the way.

        Raises:
            QCompilerError: QC0103 without any batch or on a second run over a generator, QC0104
                for a batch that does not fit the inputs, QC0106 for a NaN or an infinity.
        """
        if not self._is_fresh:
            self._restart()
        self._is_fresh = False
        if not self._ahead:
            self._ahead.append(self._next_or_refuse())
        for raw in self._pull():
            batch = self._check(raw, self._index)
            self._index += 1
            self._seen_samples += self._size(batch)
            self._keep(batch)
            yield batch

    def kept_batches(self, samples: int | None = None) -> Iterator[Batch]:
        """Yields the kept batches, at most ``samples`` samples of them.

        Data that were not streamed yet are read as far as needed, and streamed later all the same.
        """
        wanted = self.keep if samples is None else min(samples, self.keep)
        if self._is_fresh:
            yield from self._peek(wanted)
            return
        yield from self._limited(self._kept, wanted)

    def summary(self) -> dict[str, Any]:
        """Returns what a manifest says of the data: counts, and the sha256 of the kept samples."""
        digest = hashlib.sha256()
        for batch in self._kept:
            for value in batch:
                digest.update(f"{dtype_name(value.dtype)}{tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
        return {
            "samples": self._seen_samples,
            "kept_samples": self._kept_samples,
            "kept_sha256": digest.hexdigest(),
        }

    # -- streaming -----------------------------------------------------------------------------

    def _restart(self) -> None:
        source = iter(self._data)
        if source is self._source or source is self._data:
            raise QCompilerError(
                "QC0103",
                "the calibration data are a generator, which was read to its end before",
                remedy="give a list, a DataLoader, or another object that can be iterated again",
            )
        self._source, self._index, self._seen_samples = source, 0, 0
        self._ahead, self._kept, self._kept_samples = [], [], 0

    def _next_or_refuse(self) -> Any:
        for raw in self._source:
            return raw
        raise QCompilerError(
            "QC0103",
            "the calibration data are empty",
            remedy="give at least one batch; a generator that was read before yields none",
        )

    def _pull(self) -> Iterator[Any]:
        while self._ahead:
            yield self._ahead.pop(0)
        yield from self._source

    def _peek(self, wanted: int) -> Iterator[Batch]:
        """Yields the first samples without using them up."""
        place, taken = 0, 0
        while taken < wanted:
            if place == len(self._ahead):
                raw = next(self._source, None)
                if raw is None:
                    break
                self._ahead.append(raw)
            batch = self._check(self._ahead[place], place)
            for part in self._limited([batch], wanted - taken):
                taken += self._size(part)
                yield part
            place += 1

    def _limited(self, batches: Iterable[Batch], wanted: int) -> Iterator[Batch]:
        for batch in batches:
            if wanted <= 0:
                return
            yield self._first(batch, wanted)
            wanted -= self._size(batch)

    def _size(self, batch: Batch) -> int:
        return batch_size(self._types, batch)

    def _first(self, batch: Batch, samples: int) -> Batch:
        """Returns the first samples of a batch, all of it when its size is fixed."""
        return tuple(
            value[:samples] if has_batch(self._types[place]) else value
            for place, value in enumerate(batch)
        )

    def _keep(self, batch: Batch) -> None:
        room = self.keep - self._kept_samples
        if room > 0:
            kept = tuple(value.clone() for value in self._first(batch, room))
            self._kept.append(kept)
            self._kept_samples += self._size(kept)

    # -- checks --------------------------------------------------------------------------------

    def _check(self, raw: Any, index: int) -> Batch:
        """Returns the inputs in a batch, or the error of the reading that comes nearest."""
        readings = _readings(raw, self._names)
        problem: QCompilerError | None = None
        for reading in readings:
            try:
                return self._typed(reading, index)
            except QCompilerError as error:
                if error.code == "QC0106":
                    raise
                problem = problem or error
        if problem is None:
            wanted = ", ".join(f"{n}: {t}" for n, t in zip(self._names, self._types, strict=True))
            raise QCompilerError(
                "QC0104",
                f"calibration batch {index} is {_describe(raw)}; the inputs are {wanted}",
                remedy=_FORMS,
            )
        raise problem

    def _typed(self, values: Sequence[Any], index: int) -> Batch:
        symbols: dict[str, int] = {}
        batch = []
        for name, wanted, value in zip(self._names, self._types, values, strict=True):
            tensor = _to_tensor(value, index, name)
            if not _fits(tensor, wanted, symbols):
                raise QCompilerError(
                    "QC0104",
                    f"calibration batch {index}: input {name!r} is "
                    f"{TensorType(tensor.dtype, tuple(tensor.shape))}, expected {wanted}",
                    remedy=_shape_remedy(tensor, wanted),
                )
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise QCompilerError(
                    "QC0106",
                    f"calibration batch {index}: input {name!r} holds NaN or infinite values",
                    remedy="leave such samples out, or mend the preprocessing",
                )
            batch.append(tensor)
        return tuple(batch)


def has_batch(kind: TensorType) -> bool:
    """Says whether dimension 0 of an input is the batch, so that it can be cut into samples."""
    return bool(kind.shape) and str(kind.shape[0]) == BATCH


def batch_size(types: Iterable[TensorType], batch: Sequence[Tensor]) -> int:
    """Returns the number of samples in a batch; one of fixed size counts by its first input."""
    sizes = [value.shape[0] for kind, value in zip(types, batch, strict=True) if has_batch(kind)]
    return sizes[0] if sizes else max([1, *batch[0].shape[:1]])


def _readings(raw: Any, names: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Yields the ways to take one value per input out of a batch, the likeliest first."""
    count = len(names)
    if isinstance(raw, Mapping):
        if all(name in raw for name in names):
            yield [raw[name] for name in names]
    elif isinstance(raw, (tuple, list)):
        if len(raw) == count:
            yield raw
        if raw and isinstance(raw[0], (tuple, list, Mapping)):
            yield from _readings(raw[0], names)
        if len(raw) > count:
            yield raw[:count]
    elif count == 1:
        yield [raw]


def _by_signature(raw: Any, model: object) -> Sequence[Any]:
    """Returns the inputs in a batch by what the forward method takes."""
    names, required = _parameters(model)
    if isinstance(raw, Mapping):
        return [raw[name] for name in names if name in raw] or list(raw.values())
    if not isinstance(raw, (tuple, list)):
        return [raw]
    if raw and isinstance(raw[0], (tuple, list, Mapping)):
        return _by_signature(raw[0], model)
    limit = len(names) if names else len(raw)
    if required and len(raw) == required + 1 and _is_label(raw[-1]):
        limit = required
    return raw[:limit]


def _parameters(model: object) -> tuple[list[str], int]:
    """Returns the names of the forward method's positional parameters, and how many it needs.

    Both are empty when it takes any number.
    """
    if not isinstance(model, nn.Module):
        return [], 0
    found = list(inspect.signature(model.forward).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in found):
        return [], 0
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    plain = [p for p in found if p.kind in kinds]
    return [p.name for p in plain], sum(p.default is inspect.Parameter.empty for p in plain)


def _is_label(value: Any) -> bool:
    """Says whether a value looks like class numbers: integers of rank 1 at most."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        return value.dim() <= 1 and not value.is_floating_point()
    return not isinstance(value, (tuple, list, Mapping))


def _to_tensor(value: Any, index: int, name: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return value.detach().cpu()
    raise QCompilerError(
        "QC0104",
        f"calibration batch {index}: input {name!r} is {_describe(value)}, not a tensor",
        remedy=_FORMS,
    )


def _fits(tensor: Tensor, wanted: TensorType, symbols: dict[str, int]) -> bool:
    """Says whether a tensor has a type; notes the values of the type's symbols."""
    if tensor.dtype != wanted.dtype or tensor.dim() != wanted.rank:
        return False
    for size, dim in zip(tensor.shape, wanted.shape, strict=True):
        if isinstance(dim, int):
            fits = size == dim
        elif dim.is_Symbol:
            fits = size > 0 and symbols.setdefault(dim.name, size) == size
        else:
            fits = not {s.name for s in dim.free_symbols} <= symbols.keys() or (
                evaluate_dim(dim, symbols) == size
            )
        if not fits:
            return False
    return True


def _shape_remedy(tensor: Tensor, wanted: TensorType) -> str:
    if not tensor.numel():
        return _EMPTY
    if tensor.dtype == torch.uint8 and wanted.is_float:
        return "apply the preprocessing of the model: it takes floats, not bytes of an image"
    if tensor.dtype != wanted.dtype:
        return f"convert the data to {str(wanted.dtype).removeprefix('torch.')}"
    if tensor.dim() == wanted.rank - 1:
        return "add the batch dimension, for example with torch.utils.data.DataLoader"
    return "resize the data, or declare the dimension with dynamic_shapes"


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"
