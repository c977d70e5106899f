"""The systems of the comparison: how each loads a model and answers with its logits.

Every session takes the same float images, NCHW, and gives float logits; what it does to get there,
quantizing its input included, is timed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.artifacts import Array, Store
from qcompiler.report.timing import interleave

# Runs of a configuration before one of several is chosen.
_TRIALS = 4


@dataclass(frozen=True)
class Session:
    """A loaded model with its inputs in place.

    ``run`` returns the logits in one part or several; ``detail`` says how the model really runs.
    """

    run: Callable[[], Sequence[Any]]
    detail: str


@dataclass(frozen=True)
class Contender:
    """A system: what loads a model for a number of threads and inputs of a batch.

    ``peer`` is true for what runs in the environment of the peers, ``int8`` for quantized models.
    The artifacts are made before the model is loaded, in this order.
    """

    title: str
    int8: bool
    peer: bool
    artifacts: tuple[str, ...]
    packages: tuple[str, ...]
    load: Callable[[Store, Array, int], Session]

    def versions(self) -> str:
        """Returns the versions of the packages that run."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)


def _qcompiler(artifact: str) -> Callable[[Store, Array, int], Session]:
    def load(store: Store, images: Array, threads: int) -> Session:
        import torch

        import qcompiler

        torch.set_num_threads(threads)
        program = qcompiler.load(store.folder(artifact) / "program.qcp")
        program.num_threads = threads
        given = torch.from_numpy(images)
        report = program.report()
        level = report.rows[-1].kernel.rpartition("_")[2]
        detail = f"kernels of {level}, {len(report.islands)} operators in floating point"
        return Session(lambda: [program(given)], detail)

    return load


def _torch_eager(store: Store, images: Array, threads: int) -> Session:
    import torch

    from benchmarks.models import MODELS

    torch.set_num_threads(threads)
    model, given = MODELS[store.model](), torch.from_numpy(images)
    return Session(torch.inference_mode()(lambda: [model(given)]), "inference mode")


def _torch_compile(store: Store, images: Array, threads: int) -> Session:
    import torch

    from benchmarks.models import MODELS

    torch.set_num_threads(threads)
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.freezing = True
    compiled = torch.compile(MODELS[store.model](), dynamic=False)
    given = torch.from_numpy(images)
    return Session(torch.inference_mode()(lambda: [compiled(given)]), "Inductor with freezing")


def _onnxruntime(artifact: str) -> Callable[[Store, Array, int], Session]:
    def load(store: Store, images: Array, threads: int) -> Session:
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name("batch", len(images))
        with tempfile.TemporaryDirectory() as scratch:
            optimized = Path(scratch) / "optimized.onnx"
            options.optimized_model_filepath = str(optimized)
            session = runtime.InferenceSession(
                store.folder(artifact) / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
            found = _integer_nodes(optimized)
        binding = session.io_binding()
        binding.bind_cpu_input("images", images)
        binding.bind_output("logits", "cpu")

        def run() -> Sequence[Array]:
            session.run_with_iobinding(binding)
            return [value.numpy() for value in binding.get_outputs()]

        return Session(run, found)

    return load


def _integer_nodes(model: Path) -> str:
    """Returns how many convolutions of an optimized ONNX file compute on integers."""
    onnx: Any = importlib.import_module("onnx")
    kinds = [node.op_type for node in onnx.load(model).graph.node if "Conv" in node.op_type]
    integer = sum(kind in ("QLinearConv", "ConvInteger") for kind in kinds)
    return f"{integer} of {len(kinds)} convolutions int8"


def _openvino(artifact: str, file: str, **given: str) -> Callable[[Store, Array, int], Session]:
    def load(store: Store, images: Array, threads: int) -> Session:
        openvino: Any = importlib.import_module("openvino")
        core = openvino.Core()
        path = store.folder(artifact) / file

        def session(hint: str, streams: int) -> Session:
            model = core.read_model(path)
            parts = np.split(images, streams)
            model.reshape([len(parts[0]), *images.shape[1:]])
            config = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads, **given}
            compiled = core.compile_model(model, "CPU", {**config, "NUM_STREAMS": streams})
            requests = [compiled.create_infer_request() for _ in parts]
            for request, part in zip(requests, parts, strict=True):
                request.set_input_tensor(openvino.Tensor(part, shared_memory=True))
            outputs = [request.get_output_tensor().data for request in requests]

            def run_together() -> Sequence[Array]:
                for request in requests:
                    request.start_async()
                for request in requests:
                    request.wait()
                return outputs

            def run_one() -> Sequence[Array]:
                requests[0].infer()
                return outputs

            run = run_one if streams == 1 else run_together
            what = f"{hint} hint, {streams} stream{'s' if streams > 1 else ''}"
            return Session(run, f"{what}, {_precisions(compiled)}")

        candidates = [session("LATENCY", 1)]
        if threads > 1 and len(images) % threads == 0:
            candidates.append(session("THROUGHPUT", threads))
        return _fastest(candidates)

    return load


def _fastest(candidates: Sequence[Session]) -> Session:
    """Returns the session with the fastest of a few calls, made in turns."""
    if len(candidates) == 1:
        return candidates[0]
    calls = {str(i): candidate.run for i, candidate in enumerate(candidates)}
    timings = interleave(calls, rounds=_TRIALS, warmup=1)
    return candidates[int(min(timings, key=lambda i: timings[i].minimum))]


def _precisions(compiled: Any) -> str:
    """Returns how many convolutions of a compiled model run on integers, by its runtime graph."""
    kinds = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "Convolution" in str(info["layerType"].astype(str)):
            kinds.append(info["runtimePrecision"].astype(str))
    integer = sum(kind in ("i8", "u8") for kind in kinds)
    return f"{integer} of {len(kinds)} convolutions int8"


_AVX2 = "qcompiler-avx2"
CONTENDERS: dict[str, Contender] = {
    "qcompiler": Contender(
        title="qcompiler int8",
        int8=True,
        peer=False,
        packages=("torch",),
        artifacts=("qcompiler",),
        load=_qcompiler("qcompiler"),
    ),
    "qcompiler-avx2": Contender(
        title="qcompiler int8, AVX2",
        int8=True,
        peer=False,
        packages=("torch",),
        artifacts=(_AVX2,),
        load=_qcompiler(_AVX2),
    ),
    "torch": Contender(
        title="torch eager fp32",
        int8=False,
        peer=False,
        packages=("torch",),
        artifacts=(),
        load=_torch_eager,
    ),
    "torch-compile": Contender(
        title="torch.compile fp32",
        int8=False,
        peer=False,
        packages=("torch",),
        artifacts=(),
        load=_torch_compile,
    ),
    "onnxruntime": Contender(
        title="ONNX Runtime fp32",
        int8=False,
        peer=True,
        packages=("onnxruntime",),
        artifacts=("onnx",),
        load=_onnxruntime("onnx"),
    ),
    "onnxruntime-int8": Contender(
        title="ONNX Runtime int8",
        int8=True,
        peer=True,
        packages=("onnxruntime",),
        artifacts=("onnx", "onnxruntime-int8"),
        load=_onnxruntime("onnxruntime-int8"),
    ),
    "openvino": Contender(
        title="OpenVINO fp32",
        int8=False,
        peer=True,
        packages=("openvino",),
        artifacts=("onnx",),
        load=_openvino("onnx", "model.onnx", INFERENCE_PRECISION_HINT="f32"),
    ),
    "openvino-int8": Contender(
        title="OpenVINO int8",
        int8=True,
        peer=True,
        packages=("openvino", "nncf"),
        artifacts=("onnx", "openvino-int8"),
        load=_openvino("openvino-int8", "model.xml"),
    ),
}
