"""A program as a C project: sources, weights, build files and an example, for other builds to take.

The files of a project depend on the program alone: the same program gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

import torch
from torch import fx

import qcompiler
from qcompiler.backends.native.arena import Arena, find_arena
from qcompiler.backends.native.choices import Setting
from qcompiler.backends.native.codes import CodeForm
from qcompiler.backends.native.cprint import c_dim, c_float, symbols_in
from qcompiler.backends.native.emitter import (
    Description,
    NativeSources,
    describe,
    kernel_sources,
    plan_sequentially,
)
from qcompiler.backends.native.footprint import at_peak
from qcompiler.backends.native.levels import (
    DISPATCH,
    KERNELS,
    PROGRAM,
    Isa,
    generated,
    names_header,
)
from qcompiler.backends.native.packing import ALIGNMENT
from qcompiler.backends.native.rendering import template
from qcompiler.backends.native.stack import stack_bytes
from qcompiler.backends.native.toolchain import DEFAULT_OPTIMIZATION, OPTIMIZATION
from qcompiler.backends.native.values import SLACK
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.types import TensorType

# Of the weights, what model_init looks at.
CHECKED = 1024
# Files of the library that a project has no use for, and words in the names of other families'.
_UNUSED = ("threads.c", "peak.c")
_FAMILIES = {"x86": ("avx",), "a": ("neon", "dotprod", "i8mm"), "m": ("helium", "dsp")}
_FLAGS = ("-fwrapv", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_TYPES = {
    torch.float32: ("MODEL_FLOAT32", "float"),
    torch.int32: ("MODEL_INT32", "int32_t"),
}
_RESERVED = frozenset(
    "arena arena_bytes auto break case char const continue default do double else enum extern float"
    " for goto if inline int long register restrict return short signed sizeof static struct switch"
    " symbols sample inputs outputs typedef union unsigned void volatile while profiler".split()
)


@dataclass(frozen=True)
class Bare:
    """What a project has in the place of an operating system.

    Attributes:
        machine: the example's, by the names of ``machine.ld.jinja``.
        stack: bytes of the example's stack.
        startup: files of the example by name.
        baseline: the level of every processor of the family, for what runs before it is known.
        run: the command that runs the example, which follows it.
    """

    machine: object
    stack: int
    startup: Mapping[str, bytes]
    baseline: Isa
    run: str


@dataclass(frozen=True)
class Project:
    """What a project is made from.

    Attributes:
        graph: the program.
        form: how codes are stored.
        levels: instruction sets, slowest first; several are told apart at run time.
        target: as text, for comments.
        emulated: the model of a processor that qemu takes; empty for one of this machine's family.
        name: of the library.
        weights_array: whether the weights come as a C array, too.
        settings: of what kernels leave open, by node; those of the cost model for other nodes.
        bare: what there is in the place of an operating system.
    """

    graph: QGraph
    form: CodeForm
    levels: Sequence[Isa]
    target: str
    emulated: str = ""
    name: str = "model"
    weights_array: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)
    bare: Bare | None = None

    def files(self) -> dict[str, bytes]:
        """Returns the files by path."""
        described, values = self._parts
        texts = {
            "include/model.h": "model.h.jinja",
            "src/model.c": "model.c.jinja",
            "src/serial.c": "serial.c.jinja",
            "example/main.c": "main.c.jinja",
            "CMakeLists.txt": "CMakeLists.txt.jinja",
            "README.md": "project_readme.md.jinja",
        }
        if len(self.levels) == 1:
            texts["src/processor.c"] = "processor.c.jinja"
        made = {path: _text(name, values) for path, name in texts.items()}
        made |= {f"src/kernels/{name}": text for name, text in self._library().items()}
        if len(self.levels) > 1:
            made["src/dispatch.c"] = made.pop(f"src/kernels/{DISPATCH}")
        made["data/weights.bin"] = described.blob
        if values["weights_array"]:
            made["src/weights.c"] = c_array(described.blob).encode()
        if self.emulated:
            made |= _toolchains("cortex-m" if self.bare else "aarch64")
        if self.bare is not None:
            made["example/main.c"] = _text("main_bare.c.jinja", values)
            made["example/machine.ld"] = _text("machine.ld.jinja", values)
            made["cmake/freestanding/string.h"] = _text("freestanding_string.h", values)
            made |= {f"example/{name}": text for name, text in self.bare.startup.items()}
        return dict(sorted(made.items()))

    def sources(self) -> NativeSources:
        """Returns the same library as flat files, with an entry for requests beside it.

        Levels must be one. A machine without an operating system runs it: backends/arm/runner.c.
        """
        described, values = self._parts
        made = self.library()
        del made["model.c"]
        made[PROGRAM] = _text("entry.c.jinja", values)
        return NativeSources(made, described.blob, described.ops)

    def library(self) -> dict[str, bytes]:
        """Returns the library as flat files, without its weights; levels must be one."""
        values = self._parts[1]
        names = ("model.h", "model.c", "serial.c", "processor.c")
        return {**{n: _text(f"{n}.jinja", values) for n in names}, **self._library()}

    @property
    def stack(self) -> int | None:
        """A bound of the stack's bytes of a run; None where nobody counts them."""
        return self._stack(self._parts[0])

    @cached_property
    def _parts(self) -> tuple[Description, dict[str, Any]]:
        """The program before it is text, and what templates are told."""
        graph = self.graph
        settings = {node: (setting,) for node, setting in self.settings.items()}
        plan = graph.memory_plan or plan_sequentially(graph)
        described = describe(graph, plan, settings=settings, form=self.form)
        return described, self._values(described, find_arena(graph, plan, described))

    def _library(self) -> dict[str, bytes]:
        """Returns the files of the kernel library that this family of processors compiles."""
        family = self.levels[0].family
        others = [word for name, words in _FAMILIES.items() if name != family for word in words]
        whole = {n: t for n, t in kernel_sources(self.form).items() if n != "peak.c"}
        own = {n: t for n, t in whole.items() if not any(word in n for word in others)}
        if len(self.levels) > 1:
            made = generated(own, self.levels)
            names = (KERNELS, DISPATCH, *map(names_header, self.levels))
            own |= {name: made[name] for name in names}
        return {name: text for name, text in own.items() if name not in _UNUSED}

    def _values(self, described: Description, arena: Arena) -> dict[str, Any]:
        graph, batch = self.graph, described.values["batch"]
        library = self._library()
        kernels = sorted(n for n in library if n.endswith(".c") and n != DISPATCH)
        inputs = [self._tensor(node, node.name) for node in graph.inputs]
        outputs = [self._tensor(node, f"output{i}") for i, node in enumerate(graph.results)]
        names = list(graph.symbols)
        batch_name = None if batch is None else names[batch["position"]]
        own = [name for name in names if name != batch_name]
        pointers = [t["name"] for t in (*inputs, *outputs)]
        parameters = [
            *(f"int64_t {name}" for name in names),
            *(f"const {t['c_type']} *{t['name']}" for t in inputs),
            *(f"{t['c_type']} *{t['name']}" for t in outputs),
        ]
        lows = [str(graph.symbols[name].low) for name in names]
        return described.values | {
            "title": self.name,
            "name": self.name,
            "target": self.target,
            "version": qcompiler.__version__,
            "alignment": ALIGNMENT,
            "slack": SLACK,
            "weight_bytes": len(described.blob),
            "checked": min(CHECKED, len(described.blob)),
            "checksum": checksum(described.blob),
            **self._arena(described, arena),
            "arena_note": "" if not names else " for any batch" if batch_name else "",
            "inputs": inputs,
            "outputs": outputs,
            "names": [op.node for op in described.ops],
            "direct": len(self.levels) == 1,
            "levels": self.levels,
            "level": self.levels[0],
            "needed": " or ".join(
                "+".join(f.name for f in level.features) or level.name for level in self.levels
            ),
            "cross": bool(self.emulated),
            "emulated": self.emulated,
            "weights_array": self.weights_array or self.bare is not None,
            "bare": self.bare,
            "machine": self.bare and self.bare.machine,
            "stack": self.bare and self.bare.stack,
            "baseline": self.bare and self.bare.baseline,
            "example_arena": arena.bytes({n: span.low for n, span in graph.symbols.items()}),
            "large_bytes": arena.bytes({n: span.low for n, span in graph.symbols.items()})
            + sum(t["bytes"] for t in (*inputs, *outputs)),
            "kernels": kernels,
            "optimization": {
                n: OPTIMIZATION[n]
                for n in kernels
                if OPTIMIZATION.get(n, DEFAULT_OPTIMIZATION) != DEFAULT_OPTIMIZATION
            },
            "flags": [f"-DQC_SIGNED_CODES={int(self.form.is_signed)}", *_FLAGS],
            "size_parameters": ", ".join(f"int64_t {name}" for name in own),
            "size_arguments": ", ".join(own),
            "run_parameters": ", ".join(parameters),
            "pointer_names": pointers,
            "ranges": [
                {"name": name, "low": span.low, "high": span.high, "index": i}
                for i, (name, span) in enumerate(graph.symbols.items())
            ],
            "batch_name": batch_name,
            "arena_arguments": ", ".join("1" if n == batch_name else n for n in names) or "0",
            "sample_inputs": _moved(inputs, batch and batch["inputs"], "const uint8_t *"),
            "sample_outputs": _moved(outputs, batch and batch["outputs"], "uint8_t *"),
            "input_names": [t["name"] for t in inputs],
            "output_names": [t["name"] for t in outputs],
            "example_call": ", ".join([*lows, *pointers]),
            "example_sizes": ", ".join(low for n, low in zip(names, lows, strict=True) if n in own),
            "example_arguments": ", ".join(
                [
                    *lows,
                    *(f"inputs[{i}]" for i in range(len(inputs))),
                    *(f"outputs[{i}]" for i in range(len(outputs))),
                ]
            ),
            "request_sizes": [f"symbols[{i}]" for i, n in enumerate(names) if n in own],
            "request_arguments": [
                *(f"symbols[{i}]" for i in range(len(names))),
                *(f"inputs[{i}]" for i in range(len(inputs))),
                *(f"outputs[{i}]" for i in range(len(outputs))),
            ],
            "sizes_text": _sizes_text(graph),
            "sizes_sentence": _sizes_sentence(graph, batch_name),
        }

    def _arena(self, described: Description, arena: Arena) -> dict[str, Any]:
        """Returns the arena's bytes, where scratch memory is in it, and what fills it most."""
        places = [step.scratch for step in arena.steps]
        lows = {name: span.low for name, span in self.graph.symbols.items()}
        fixed = None if symbols_in(arena.size) else arena.bytes({})
        peak, alive = at_peak(arena, lows, "`{}`".format)
        symbols = {*described.values["step_symbols"]}.union(*map(symbols_in, places))
        return {
            "steps": [
                step | {"scratch": c_dim(places[step["index"]])}
                for step in described.values["steps"]
            ],
            "step_symbols": [name for name in self.graph.symbols if name in symbols],
            "arena_size": c_dim(arena.size),
            "arena_symbols": symbols_in(arena.size),
            "arena_bytes": fixed,
            "arena_text": "see `model_arena_bytes`" if fixed is None else fixed,
            "peak": peak,
            "alive": alive,
            "stack_bytes": self._stack(described),
        }

    def _stack(self, described: Description) -> int | None:
        """Returns a bound of the stack's bytes of a run; None where nobody counts them."""
        weights = [
            type_of(node).shape
            for call in self.graph.calls
            for node in call.all_input_nodes
            if node.op == "get_attr" and type_of(node).rank == 4
        ]
        rows = max((int(shape[2]) for shape in weights), default=0)
        found = [stack_bytes(level.name, described.kernels, rows) for level in self.levels]
        known = [size for size in found if size is not None]
        return max(known) if len(known) == len(found) else None

    def _tensor(self, node: fx.Node, name: str) -> dict[str, Any]:
        kind = type_of(node)
        code, c_type = _TYPES.get(kind.dtype, (f"MODEL_{self._code_type()}", self.form.c_type))
        scale, zero_point = _scale_of(node)
        lows = {n: span.low for n, span in self.graph.symbols.items()}
        items = int(torch.Size(kind.bind(lows)).numel())
        shape = [dim if isinstance(dim, int) else -1 for dim in kind.shape]
        return {
            "name": f"{name}_" if name in _RESERVED | set(self.graph.symbols) else name,
            "kind": code,
            "c_type": c_type,
            "rank": kind.rank,
            "shape": ", ".join(map(str, shape)) or "0",
            "shape_text": _shape_text(kind),
            "scale": c_float(scale) if scale else "0.0f",
            "scale_text": f"{scale:.9g}" if scale else "none",
            "zero_point": zero_point + (self.form.offset if kind.dtype == torch.int8 else 0),
            "items": items,
            "bytes": items * kind.dtype.itemsize,
        }

    def _code_type(self) -> str:
        return self.form.c_type.removesuffix("_t").upper()


def _text(name: str, values: Mapping[str, Any]) -> bytes:
    return f"{template(name).render(values).rstrip()}\n".encode()


def checksum(blob: bytes) -> int:
    """Returns what model_init computes of the first and of the last bytes of the weights."""
    checked, value = min(CHECKED, len(blob)), 0
    for byte in blob[:checked] + blob[len(blob) - checked :]:
        value = (value ^ byte) * 16777619 % 2**32
    return value


def c_array(blob: bytes) -> str:
    """Returns the weights as an aligned array, ``model_weights``."""
    rows = [", ".join(map(str, blob[i : i + 24])) for i in range(0, len(blob), 24)]
    body = ",\n    ".join(rows)
    return (
        "/* The weights. Written by qcompiler. */\n#include <stdint.h>\n\n"
        f"extern const uint8_t model_weights[{len(blob)}];\n\n"
        f"_Alignas({ALIGNMENT}) const uint8_t model_weights[{len(blob)}] = {{\n    {body},\n}};\n"
    )


def _toolchains(system: str) -> dict[str, bytes]:
    """Returns the toolchain files of a system, by path."""
    folder = files(__package__) / "templates" / "cmake"
    own = [file for file in folder.iterdir() if file.name.startswith(system)]
    return {f"cmake/{file.name}": file.read_bytes() for file in own}


def _moved(tensors: Sequence[Mapping[str, Any]], steps: Any, cast: str) -> list[str]:
    """Returns the C pointers to one sample's part of each tensor."""
    if steps is None:
        return []
    return [
        f"({cast}){t['name']} + sample * ({step})" for t, step in zip(tensors, steps, strict=True)
    ]


def _scale_of(node: fx.Node) -> tuple[float, int]:
    """Returns scale and zero point at the border, scale 0 where there is none for all elements."""
    users = [user for user in node.users if user.op == "call_function"]
    if node.op == "placeholder" and len(users) == 1:
        (user,) = users
        if str(user.target) == "qcompiler.quantize.default":
            return 1.0 / float(argument(user, "inv_scale")), int(argument(user, "zero_point"))
    if str(node.target) == "qcompiler.dequantize.default":
        return float(argument(node, "scale")), int(argument(node, "zero_point"))
    return 0.0, 0


def _shape_text(kind: TensorType) -> str:
    return f"[{', '.join(str(dim) for dim in kind.shape)}]"


def _sizes_text(graph: QGraph) -> str:
    if not graph.symbols:
        return "of the model's sizes"
    return "with " + ", ".join(f"{name} = {span.low}" for name, span in graph.symbols.items())


def _sizes_sentence(graph: QGraph, batch: str | None) -> str:
    if not graph.symbols:
        return "All sizes are fixed."
    parts = ", ".join(f"`{name}` is {s.low} to {s.high}" for name, s in graph.symbols.items())
    more = f" Samples of `{batch}` run one after the other in the same arena." if batch else ""
    return f"Dynamic sizes: {parts}.{more}"
