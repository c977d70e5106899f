"""How traced operators are written with the normalized ones, by family."""

from __future__ import annotations

from qcompiler.passes.rewrite._conversions import (
    elementwise,
    identities,
    movement,
    pooling,
    products,
    resizing,
)
from qcompiler.rewrite.conversion import Conversion

CONVERSIONS: dict[str, Conversion] = {
    name: conversion
    for family in (products, elementwise, pooling, movement, resizing, identities)
    for name, conversion in family.TABLE.entries.items()
}
