"""Coded errors: what is wrong, at which node and user line, against which rule, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

CATALOG: dict[str, str] = {
    # QC01xx: capture and inputs of the compiler
    "QC0101": "the forward method has no control flow that depends on tensor values",
    "QC0102": "torch.export accepts the model with the given example inputs",
    "QC0103": "the calibration data yield at least one batch",
    "QC0104": "each calibration batch has the number, shape and dtype of the model's inputs",
    "QC0105": "parameters and buffers are finite",
    "QC0106": "calibration data and the activations they cause are finite",
    "QC0107": "a model is an nn.Module, an ExportedProgram or a path to a .pt2 file",
    "QC0108": "the forward method changes neither its inputs nor the model's state",
    "QC0109": "parameters, buffers and inputs that the model computes with are float32",
    "QC0110": "dynamic_shapes names dimensions of the model's inputs",
    # QC02xx: operators
    "QC0201": "each operator has an integer form on the target (strict=True)",
    "QC0202": "each operator is a normalized one or has a conversion to normalized ones",
    "QC0203": "an operator's arguments are in the range that its integer form covers",
    # QC03xx: ranges and quantization parameters
    "QC0301": "values that must share quantization parameters have no contradicting fixed ones",
    "QC0302": "each value that is quantized was observed or has a bound",
    "QC0303": "a real multiplier lies in the encodable range of requantize",
    "QC0304": "a scheme is text such as w4a8 or w4g64a8, an override's also w4, a8 or float",
    "QC0305": "a target runs the widths and group sizes that a scheme asks for",
    "QC0306": "an override's rule names modules, operators, lines or nodes that the model has",
    "QC0307": "overrides ask for one width of a weight, and of values that share parameters",
    "QC0321": "a budget is at least what the narrowest widths of all weights take",
    "QC0322": "a budget leaves room for the bits that overrides ask for",
    "QC0323": "a budget is a positive size, number of bits or time, or a drop with a function",
    "QC0324": "a budget of latency is for a target that predicts times",
    "QC0325": "the score that evaluate returns of the float model is a finite number",
    # QC04xx: proofs
    "QC0401": "an accumulator's proven bound fits 32 bits",
    "QC0402": "the input of a requantization lies in the range that its shift allows",
    "QC0403": "a bias fits the int32 accumulator at the scale of its weights",
    # QC05xx: pass manager and registry
    "QC0501": "a pipeline names registered passes",
    "QC0502": "a pass or target takes the options that it declares, with values of their type",
    "QC0503": "the stage and properties that a pass needs are established before it runs",
    "QC0504": "a pass leaves a graph that meets the specification of its stage",
    "QC0505": "a name is registered by one owner",
    "QC0506": "a target is registered under the given name",
    "QC0507": "a pass runs to its end without an exception",
    "QC0508": "a pipeline or target is text of the form name{option=value ...},name,...",
    "QC0509": "an operator is registered under the given name",
    "QC0510": "the object of a registered name can be imported from the place its owner states",
    "QC0511": "rewrite rules return a node or NoMatch, until none of them applies",
    # QC06xx: text IR and artifacts
    "QC0601": "text IR follows the grammar of docs/reference/ir.md",
    "QC0602": "an artifact is a complete .qcp file with the hashes that its manifest states",
    "QC0603": "an artifact's format version is one that this release reads",
    "QC0604": "an artifact or other output can be written as a whole to the given place",
    # QC07xx: running
    "QC0701": "inputs have the shapes, dtype and device that the program was compiled for",
    "QC0702": "a number of threads is whole and from 1 to 1024, one of rounds at least 1",
    # QC08xx: tools and extras
    "QC0801": "a C compiler is available for a native target",
    "QC0802": "an optional package is installed when a feature needs it",
    "QC0803": "the C compiler accepts the generated sources",
    "QC0804": "a level of isa or QCOMPILER_ISA can be built here, and one of them can run here",
    "QC0805": "tune is fast or full, tune_seconds a positive number, and the target has choices",
    "QC0821": "a compiler for the target's processors is found",
    "QC0822": "programs for another processor run under an emulator, or on that processor",
    "QC0823": "the processor that runs a program has the instructions of one of its levels",
    "QC0824": "a program in a process of its own runs until it is asked to end",
    "QC0825": "the target writes programs as C projects",
    "QC0826": "a program fits the flash and RAM that memory declares",
    "QC0827": "memory is a dict of flash and ram in bytes, and the target takes such limits",
    "QC0828": "llvm-mca predicts the cycles of a core for a program's blocks of code",
    "QC0840": "a CUDA device is there for programs that run on one",
    "QC0841": "a CUDA device has the architecture of the program, or a later one",
    "QC0842": "a CUDA device has room for a program's arena and constants",
    "QC0843": "Triton compiles the kernels of a program for its architecture",
    # QC09xx: command line
    "QC0901": "MODEL is a .pt2 file or package.module:callable that returns (model, inputs, data)",
    "QC0902": "tensors are read from and written to .npy and .safetensors files",
    "QC0903": "CODE is a code of the error catalogue",
    "QC0904": "DATA is package.module:callable that returns an iterable of calibration batches",
}


class QCompilerError(Exception):
    """An error with a code of the catalog, the place it concerns and a remedy.

    Args:
        code: key of ``CATALOG``.
        problem: what is wrong, in one sentence.
        remedy: what the user can do about it.
        node: name of the graph node concerned.
        source: line of the user's model, ``file:line``.
    """

    def __init__(
        self,
        code: str,
        problem: str,
        *,
        remedy: str,
        node: str | None = None,
        source: str | None = None,
    ) -> None:
        self.code = code
        self.problem = problem
        self.remedy = remedy
        self.node = node
        self.source = source
        self.rule = CATALOG[code]
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.problem}"]
        if self.node:
            lines.append(f"  node:   {self.node}")
        if self.source:
            lines.append(f"  source: {self.source}")
        lines.append(f"  rule:   {self.rule}")
        lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """Returns ``1 input``, ``2 inputs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a phrase that offers the known names closest to a misspelt one."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known names: {', '.join(names)}"
