"""Conversions of operators that leave a value as it is in eval mode."""

from __future__ import annotations

from qcompiler.ir.annotations import type_of
from qcompiler.rewrite.conversion import ConversionTable, Converted, Site, refuse

TABLE = ConversionTable()


@TABLE.add(
    "aten.detach.default",
    "aten.detach_copy.default",
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.lift_fresh.default",
    "aten.lift_fresh_copy.default",
    "aten.positive.default",
    "aten.to.dtype",
    "aten.to.dtype_layout",
    "aten.to.device",
    "aten.to.other",
    "aten.to.prim_Device",
    "aten._to_copy.default",
    "aten.type_as.default",
)
def identity(site: Site) -> Converted:
    """Converts what changes at most the memory behind a value to nothing."""
    x = site.node.all_input_nodes[0]
    if type_of(x) != site.result:
        refuse(f"it converts {type_of(x)} to {site.result}")
    return x


@TABLE.add("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
def dropout(site: Site) -> Converted:
    """Converts dropout, which does nothing in eval mode."""
    if site.arg("train"):
        refuse("it drops values at random, for it does not follow eval mode")
    return site.tensor("input")


@TABLE.add(
    "aten._assert_scalar.default",
    "aten._assert_async.msg",
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
)
def assertion(site: Site) -> Converted:
    """Removes checks that capture has made at trace time."""
    return None
