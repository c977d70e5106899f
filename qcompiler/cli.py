"""The command ``qcompiler``: compile models, look into programs, run single passes.

Every command is a thin layer over the Python API; heavy modules are imported by the command that
needs them, so that ``qcompiler --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler import __version__, registry
from qcompiler.errors import CATALOG, QCompilerError, nearest

if TYPE_CHECKING:
    from qcompiler.program import Program

app = typer.Typer(
    name="qcompiler",
    help="Compiles PyTorch models to bit-exact integer programs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="package.module:callable that returns (model, example inputs, calibration data), "
        "or a .pt2 file.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="package.module:callable that returns the calibration batches; "
        "needed for a .pt2 file, else instead of the model's own.",
    ),
]
ProgramArgument = Annotated[Path, typer.Argument(metavar="PROGRAM", help="A .qcp file.")]
TargetOption = Annotated[
    str,
    typer.Option("--target", help="A target, as cpu{isa=avx2}; `qcompiler targets` lists them."),
]
StrictOption = Annotated[
    bool, typer.Option("--strict/--no-strict", help="Refuse operators without integer form.")
]
SchemeOption = Annotated[
    str | None,
    typer.Option("--scheme", help="Bits of weights and activations, as w4a8 or w4g64a8."),
]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option("--override", metavar="RULE", help="Other bits somewhere, as 'head=w8a8'."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Number of threads; one per core if left out."),
]
InputsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[INPUT]...", help="Input tensors: .npy or .safetensors files."),
]


@app.command()
def compile(
    model: ModelArgument,
    data: DataOption = None,
    target: TargetOption = "cpu",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The artifact to be written.")
    ] = Path("out.qcp"),
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", help="Passes as text instead of the default ones.")
    ] = None,
    strict: StrictOption = True,
    scheme: SchemeOption = None,
    override: OverrideOption = None,
    threads: ThreadsOption = None,
    tune: Annotated[
        str | None,
        typer.Option("--tune", help="Measure choices of kernels on this machine: fast or full."),
    ] = None,
    tune_seconds: Annotated[
        float | None,
        typer.Option("--tune-seconds", help="Time for that; 8 for fast and 60 for full."),
    ] = None,
) -> None:
    """Compile a model to an integer program."""
    import torch

    import qcompiler
    from qcompiler.api import resolve_pipeline, resolve_scheme, resolve_target, resolve_tuning
    from qcompiler.cli_inputs import check_writable, load_model, read_overrides

    # Whatever can be refused at once is refused before the model is loaded.
    chosen = resolve_target(target)
    overrides = read_overrides(override or [])
    resolve_scheme(resolve_pipeline(pipeline, chosen), scheme, overrides, chosen)
    resolve_tuning(tune, tune_seconds, chosen)
    check_writable(output)
    if threads is not None:
        torch.set_num_threads(threads)
    source = load_model(model, data)
    program = qcompiler.compile(
        source.model,
        source.data,
        target=chosen,
        strict=strict,
        pipeline=pipeline,
        scheme=scheme,
        overrides=overrides,
        tune=tune,
        tune_seconds=tune_seconds,
        progress=True,
    )
    program.save(output)
    _out().print(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)", highlight=False)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for compile, or a .qcp file.")],
    data: DataOption = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="As for compile; armv8-a, or that of the .qcp file."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to be written.")
    ] = Path("dist"),
    name: Annotated[str, typer.Option("--name", help="Name of the C library.")] = "model",
    weights_array: Annotated[
        bool, typer.Option("--weights-array", help="Write the weights as a C array, too.")
    ] = False,
    flash: Annotated[int | None, typer.Option("--flash", min=1, help="Bytes of flash.")] = None,
    ram: Annotated[int | None, typer.Option("--ram", min=1, help="Bytes of RAM.")] = None,
) -> None:
    """Compile a model, or take a .qcp file, and write it as a C project."""
    import qcompiler
    from qcompiler.api import limit_memory, resolve_target, retarget
    from qcompiler.cli_inputs import load_model

    memory = {k: v for k, v in (("flash", flash), ("ram", ram)) if v is not None} or None
    if not model.endswith(".qcp"):
        chosen = limit_memory(resolve_target(target or "armv8-a"), memory)
        source = load_model(model, data)
        program = qcompiler.compile(source.model, source.data, target=chosen, progress=True)
    elif data is not None:
        remedy = "leave --data out, or give the model"
        raise QCompilerError("QC0901", f"{model} is compiled and takes no data", remedy=remedy)
    else:
        program = _load(Path(model))
        if target is not None or memory is not None:
            found = program.target if target is None else resolve_target(target)
            program = retarget(program, limit_memory(found, memory))
    written = program.export_c(output, name=name, weights_array=weights_array)
    _out().print(str(written), markup=False, highlight=False, soft_wrap=True)


@app.command()
def run(
    program: ProgramArgument,
    inputs: InputsArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the results go: .npy or .safetensors.")
    ] = Path("out.safetensors"),
    threads: ThreadsOption = None,
) -> None:
    """Run a program on tensors from files.

    Tensors of .safetensors files go to the inputs of the same names, if all names are inputs.

    Tensors named input0 or output0 and so on, or alone in their files, are taken in order.
    """
    from qcompiler.cli_inputs import check_writable, read_tensors, write_tensors

    check_writable(output)
    loaded = _load(program, threads)
    results = loaded(*read_tensors(inputs or [], loaded.input_names))
    for line in write_tensors(output, results):
        _out().print(line, highlight=False)


@app.command()
def report(program: ProgramArgument) -> None:
    """Print what each operator of a program became, and why."""
    console, table = _out(), _load(program).report()
    text = table.text(plain=not console.is_terminal)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def verify(program: ProgramArgument, threads: ThreadsOption = None) -> None:
    """Compare a program with the reference interpreter, bit for bit."""
    result = _load(program, threads).verify()
    _out().print(str(result), markup=False, highlight=False, soft_wrap=True)
    if not result:
        raise typer.Exit(1)


@app.command()
def bench(
    program: ProgramArgument, inputs: InputsArgument = None, threads: ThreadsOption = None
) -> None:
    """Measure the latency of a program, on random inputs if no files are given."""
    from qcompiler.cli_inputs import read_tensors

    loaded = _load(program, threads)
    given = read_tensors(inputs, loaded.input_names) if inputs else []
    console, result = _out(), loaded.bench(*given)
    text = result.text(plain=not console.is_terminal)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def opt(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="As for compile, or a .qcir or .qcp file.")
    ],
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="Passes as text, or a pipeline's name.")
    ],
    data: DataOption = None,
    target: TargetOption = "cpu",
    strict: StrictOption = True,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the graph to this .qcir file, not to stdout."),
    ] = None,
    print_before: Annotated[
        list[str] | None,
        typer.Option("--print-before", metavar="PASS", help="Print the graph before; * is all."),
    ] = None,
    print_after: Annotated[
        list[str] | None,
        typer.Option("--print-after", metavar="PASS", help="Print the graph after; * is all."),
    ] = None,
    stop_after: Annotated[
        str | None, typer.Option("--stop-after", metavar="PASS", help="End after this pass.")
    ] = None,
    dump: Annotated[
        Path | None, typer.Option("--dump", help="Folder for the graph after every pass.")
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Print what each pass took.")] = False,
) -> None:
    """Run a pipeline of passes and print the graph."""
    from qcompiler import cli_opt
    from qcompiler.cli_inputs import check_writable

    if output is not None:
        check_writable(output)
    watch = cli_opt.Watch(
        tuple(print_before or ()), tuple(print_after or ()), stop_after, dump, time
    )
    cli_opt.run(
        source, pipeline, data=data, target=target, strict=strict, output=output, watch=watch
    )


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(help="Show this pass in full.")] = None,
) -> None:
    """List the registered passes and named pipelines."""
    from qcompiler.cli_show import plain, show_pass
    from qcompiler.passmgr.describe import describe_pass

    if name is not None:
        show_pass(_out(), describe_pass(name))
        return
    table = Table("pass", "what it does", "owner", box=None, pad_edge=False)
    for known in registry.names(registry.PASSES):
        described = describe_pass(known)
        table.add_row(known, escape(plain(described.summary)), described.owner)
    _out().print(table)
    table = Table("pipeline", "passes", "owner", box=None, pad_edge=False)
    for known in registry.names(registry.PIPELINES):
        text = str(registry.load(registry.PIPELINES, known)).replace(",", ", ")
        table.add_row(known, escape(text), registry.owner(registry.PIPELINES, known))
    _out().print("", table)


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="Show this target in full.")] = None,
) -> None:
    """List the registered targets."""
    from qcompiler.cli_show import show_target
    from qcompiler.passmgr.describe import target_class

    if name is not None:
        show_target(_out(), name)
        return
    table = Table("target", "what it is", "owner", box=None, pad_edge=False)
    for known in registry.names(registry.TARGETS):
        owner = registry.owner(registry.TARGETS, known)
        table.add_row(known, escape(target_class(known).summary), owner)
    _out().print(table)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The artifact to be written.")
    ] = Path("efficientnet_lite0.qcp"),
) -> None:
    """Compile the pretrained EfficientNet-Lite0 and run it on labelled photos."""
    from qcompiler import demo as demonstration
    from qcompiler.cli_inputs import check_writable

    check_writable(output)
    demonstration.run(output, _out())


@app.command("explain-error")
def explain_error(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Such as QC0103.")],
) -> None:
    """Print the rule behind an error code."""
    known = code.upper()
    if known not in CATALOG:
        raise QCompilerError(
            "QC0903", f"there is no error code {code!r}", remedy=nearest(known, CATALOG)
        )
    _out().print(f"{known}: the rule that was broken:\n  {CATALOG[known]}", highlight=False)
    _out().print("docs/reference/errors.md lists all codes with their rules", highlight=False)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        _out().print(f"qcompiler {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Runs the command line; an error of the user ends it with status 1 and no traceback."""
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except QCompilerError as error:
        _print_error(error)
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:  # no stream
            raise
        _drop_stdout()
        if not isinstance(error, BrokenPipeError):
            problem = f"standard output cannot be written: {error.strerror or error}"
            remedy = "free disk space, or send the output elsewhere"
            _print_error(QCompilerError("QC0604", problem, remedy=remedy))
        sys.exit(1)


def _out() -> Console:
    return Console()


def _drop_stdout() -> None:
    """Keeps the interpreter from trying to write the rest of the output when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error: QCompilerError) -> None:
    first, *rest = str(error).splitlines()
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]error[/] {escape(first)}", soft_wrap=True)
    for line in (*rest, *getattr(error, "__notes__", ())):
        console.print(escape(line), soft_wrap=True)


def _load(path: Path, threads: int | None = None) -> Program:
    import qcompiler

    program = qcompiler.load(path)
    if threads is not None:
        program.num_threads = threads
    return program
