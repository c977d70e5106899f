"""Decision groups: weights whose bits are chosen together, from a graph of constraints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
from torch import fx

from qcompiler.ir.annotations import origin_of, quant_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_constant
from qcompiler.ir.intent import SharedWith, Spec
from qcompiler.ir.queries import is_island
from qcompiler.numerics.groups import group_count

# Bytes that a result's channel takes beside its weights: bias, multiplier and shift, int32 each.
CHANNEL_BYTES = 12


@dataclass(frozen=True)
class Layer:
    """An operator with a weight, as the allocation sees it.

    ``elements`` counts the weights, ``channels`` the output channels, ``module`` is the path of the
    module that it comes from, or the node's name; ``group`` how many weights share a factor.
    """

    node: fx.Node
    weight: fx.Node
    axis: int
    elements: int
    channels: int
    module: str
    group: int | None = None

    def bytes_at(self, bits: int) -> int:
        """Returns the bytes of the packed weights and of the parameters of each channel."""
        size = math.ceil(self.elements * bits / 8) + CHANNEL_BYTES * self.channels
        if self.group is not None and bits < 8:
            inputs = self.elements // max(self.channels, 1)
            size += self.channels * group_count(inputs, self.group)  # a factor of a byte each
        return size


@dataclass(frozen=True)
class DecisionGroup:
    """Layers that get the same bits, in execution order; ``pinned`` are bits asked for before."""

    name: str
    layers: tuple[Layer, ...]
    pinned: int | None = None

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(layer.elements for layer in self.layers)

    def bytes_at(self, bits: int) -> int:
        """Returns the bytes of the group's parameters."""
        return sum(layer.bytes_at(bits) for layer in self.layers)


def layers_of(graph: QGraph) -> list[Layer]:
    """Returns the operators whose constant weights become integers, in execution order."""
    found = []
    for node in graph.calls:
        op = float_op_of(node.target)
        if op is None or op.weight is None or is_island(node):
            continue
        weight = argument(node, op.weight)
        if is_constant(weight):
            tensor = graph.constant(weight)
            channels = int(tensor.shape[op.weight_axis])
            place = origin_of(node).module or node.name
            intent = quant_of(weight).intent
            group = intent.granularity.group if isinstance(intent, Spec) else None
            found.append(
                Layer(node, weight, op.weight_axis, tensor.numel(), channels, place, group)
            )
    return found


def decision_groups(graph: QGraph) -> list[DecisionGroup]:
    """Returns the groups in execution order: the connected components of what must agree.

    Layers agree that read one tensor (tied weights), and those whose weights an earlier pass said
    to share (the intent ``SharedWith``), as layers that a target computes as one product.
    """
    layers = layers_of(graph)
    agree: nx.Graph[int] = nx.Graph()
    agree.add_nodes_from(range(len(layers)))
    by_tensor: dict[object, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for place, layer in enumerate(layers):
        tensor = graph.constant(layer.weight)
        key = (tensor.data_ptr(), tuple(tensor.shape))
        by_tensor.setdefault(key, []).append(place)
        by_name.setdefault(layer.weight.name, []).append(place)
    for places in by_tensor.values():
        agree.add_edges_from(pairwise(places))
    for place, layer in enumerate(layers):
        intent = quant_of(layer.weight).intent
        if isinstance(intent, SharedWith):
            agree.add_edges_from((place, other) for other in by_name.get(intent.other, ()))
    components = sorted(sorted(found) for found in nx.connected_components(agree))
    return [_group([layers[i] for i in component]) for component in components]


def _group(layers: Iterable[Layer]) -> DecisionGroup:
    members = tuple(layers)
    asked = [quant_of(layer.weight).intent for layer in members]
    pins = [intent.bits for intent in asked if isinstance(intent, Spec) and intent.pinned]
    return DecisionGroup(members[0].module, members, max(pins, default=None))
