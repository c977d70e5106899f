"""The facts that text IR can hold: a closed table of record types, the same for both directions.

A record is printed as ``name(required, ..., optional=value, ...)``; optional fields that have their
default are left out. The tables below are all that the parser may build.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any

import torch

from qcompiler.ir.annotations import Origin, Quant
from qcompiler.ir.intent import DerivedFrom, Fixed, KeepFloat, SharedWith, Spec
from qcompiler.ir.qtypes import Granularity, QType
from qcompiler.numerics.ranges import Range, RangeState

FORMAT_VERSION = 1

RECORDS: dict[str, type[Any]] = {
    "range": Range,
    "spec": Spec,
    "shared_with": SharedWith,
    "derived_from": DerivedFrom,
    "fixed": Fixed,
    "keep_float": KeepFloat,
    "qtype": QType,
    "granularity": Granularity,
}
RECORD_NAMES: dict[type[Any], str] = {cls: name for name, cls in RECORDS.items()}

QUANT_KEYS: tuple[str, ...] = tuple(f.name for f in fields(Quant))
ORIGIN_KEYS: tuple[str, ...] = tuple(f.name for f in fields(Origin))

# Words without quotes: states of ranges, and torch's names of dtypes, layouts and memory formats.
STATES: dict[str, Enum] = {state.name.lower(): state for state in RangeState}
TORCH_WORDS: dict[str, Any] = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format))
}

# Python functions that torch.export leaves between operators: selection from a list of results,
# and arithmetic on sizes.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"operator.{function.__name__}": function
    for function in (
        operator.getitem,
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.truediv,
        operator.mod,
        operator.neg,
        operator.pow,
    )
}
FUNCTION_NAMES: dict[Callable[..., Any], str] = {f: name for name, f in FUNCTIONS.items()}


def required(field: Field[Any]) -> bool:
    """Says whether a field of a record has no default."""
    return field.default is MISSING and field.default_factory is MISSING
