"""What the contenders load, made once per model and kept in a folder of the cache.

Each artifact is made by a process of its own in the environment of the contender that needs it, so
that the process that is timed has done nothing but load it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Store:
    """The artifacts of one model of ``benchmarks.models.MODELS``."""

    cache: Path
    model: str

    def folder(self, name: str) -> Path:
        """Returns the folder of an artifact, which is made first where it is missing.

        Raises:
            RuntimeError: making it failed; the message ends with what the process wrote.
        """
        path = self._path(name)
        if not path.exists():
            command = [sys.executable, "-m", __spec__.name, str(self.cache), self.model, name]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode != 0:
                last = done.stderr.strip().rpartition("\n")[2]
                message = f"making {name} of {self.model} failed: {last}"
                raise RuntimeError(message)
        return path

    def make(self, name: str) -> None:
        """Makes an artifact in this process; it appears whole or not at all."""
        path = self._path(name)
        part = path.with_name(f"{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _RECIPES[name].make(self, part)
        os.replace(part, path)

    def array(self, name: str) -> Array:
        """Returns ``images``, ``calibration`` or ``logits``, those of the model on the images."""
        loaded: Array = np.load(self.folder("torch") / f"{name}.npy")
        return loaded

    def _path(self, name: str) -> Path:
        recipes = _digest([Path(__file__).with_name("models.py"), Path(__file__)])
        return self.cache / f"{self.model}-{recipes}" / f"{name}-{_RECIPES[name].version()}"


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made, and the version of what makes it."""

    make: Callable[[Store, Path], None]
    version: Callable[[], str]


def _export_torch(store: Store, folder: Path) -> None:
    import torch

    from benchmarks.models import MODELS, calibration_images, timed_images

    model, images = MODELS[store.model](), timed_images(store.model)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    with torch.inference_mode():
        logits = model(images)
    calibration = torch.cat(calibration_images(store.model))
    for name, value in (("images", images), ("logits", logits), ("calibration", calibration)):
        np.save(folder / f"{name}.npy", value.numpy())


def _compile_for(target: str) -> Callable[[Store, Path], None]:
    def make(store: Store, folder: Path) -> None:
        import torch

        import qcompiler
        from benchmarks.models import MODELS

        batches = torch.from_numpy(store.array("calibration")).split(16)
        program = qcompiler.compile(MODELS[store.model](), batches, target=target)
        program.save(folder / "program.qcp")

    return make


def _export_onnx(store: Store, folder: Path) -> None:
    import torch

    program = torch.export.load(store.folder("torch") / "model.pt2")
    torch.onnx.export(
        program,
        f=folder / "model.onnx",
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        external_data=False,
    )


def _quantize_onnxruntime(store: Store, folder: Path) -> None:
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    shapes: Any = importlib.import_module("onnxruntime.quantization.shape_inference")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # an untyped package
        """Gives one image after the other."""

        def __init__(self) -> None:
            self.feeds = iter([{"images": image} for image in _single_images(store)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    prepared = folder / "prepared.onnx"
    shapes.quant_pre_process(store.folder("onnx") / "model.onnx", prepared)
    quantization.quantize_static(
        prepared,
        folder / "model.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _quantize_openvino(store: Store, folder: Path) -> None:
    openvino: Any = importlib.import_module("openvino")
    nncf: Any = importlib.import_module("nncf")
    # Converted, not only read: NNCF wants the shapes of weights folded to find their channels.
    model = openvino.convert_model(store.folder("onnx") / "model.onnx")
    quantized = nncf.quantize(model, nncf.Dataset(list(_single_images(store))))
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


def _single_images(store: Store) -> Iterator[Array]:
    images = store.array("calibration")
    return (images[i : i + 1] for i in range(len(images)))


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> str:
    """Returns a digest of the compiler, so that a changed one compiles again."""
    files = [
        path
        for folder in ("qcompiler", "passes", "backends")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return _digest(files)


def _packages(*names: str) -> Callable[[], str]:
    return lambda: "-".join(importlib.metadata.version(name) for name in names)


# The environment of the harness makes the first three, that of the peers the others.
_RECIPES = {
    "torch": Recipe(_export_torch, lambda: "export"),
    "qcompiler": Recipe(_compile_for("cpu"), _sources),
    "qcompiler-avx2": Recipe(_compile_for("cpu{isa=avx2}"), _sources),
    "onnx": Recipe(_export_onnx, _packages("torch", "onnxscript")),
    "onnxruntime-int8": Recipe(_quantize_onnxruntime, _packages("onnxruntime", "onnx")),
    "openvino-int8": Recipe(_quantize_openvino, _packages("openvino", "nncf")),
}

if __name__ == "__main__":
    Store(Path(sys.argv[1]), sys.argv[2]).make(sys.argv[3])
