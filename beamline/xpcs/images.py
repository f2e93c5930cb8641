"""An image to make masks from: out of an image file, an array, or the frames of any HDF5 file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import FileFormatError
from beamline.xpcs.adapters import host_array
from beamline.xpcs.hdf5_facade import HDF5Facade

__all__ = ["MeanImage", "read_image"]

_ARRAYS = (".npy",)
_PICTURES = (".tif", ".tiff", ".png")
#: Frames are summed in blocks of about so many bytes.
_BLOCK = 32 << 20


@dataclass(frozen=True)
class MeanImage:
    """A mean of frames.

    Attributes
    ----------
    values
        (H, W) float64.
    frames
        How many frames it is the mean of, and how many there are.
    source
        File and dataset.
    """

    values: npt.NDArray[np.float64]
    frames: tuple[int, int]
    source: str


def read_image(
    path: Path, dataset: str | None = None, *, most: int = 200, facade: HDF5Facade | None = None
) -> MeanImage:
    """Return the image in a file, or the mean of its frames.

    Parameters
    ----------
    path
        TIFF, PNG, ``.npy`` or HDF5 (frame files, NeXus files of runs, XPCS results).
    dataset
        Of an HDF5 file; by default the one with the most pixels of two or three dimensions.
    most
        At most so many frames, spread over all, are taken.

    Raises
    ------
    FileFormatError
        If there is no image in it.
    """
    suffix = path.suffix.lower()
    if suffix in _PICTURES:
        return _of(_picture(path), str(path), most)
    if suffix in _ARRAYS:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{path}: it can't be read as an array ({error}).") from error
        return _of(array, str(path), most)
    facade = facade or HDF5Facade()
    shapes = facade.shapes(path)
    chosen = dataset or _largest(path, shapes)
    chosen = f"/{chosen.strip('/')}"
    shape = shapes.get(chosen)
    if shape is None:
        # Raises, and says what is wrong with it.
        shape = facade.read_dataset(path, chosen).shape
    frames = _Frames(facade, path, chosen, shape)
    return _of(frames, f"{path}, {chosen}", most)


class _Frames:
    """A dataset as if it were an array: rows are read when they are asked for."""

    def __init__(
        self, facade: HDF5Facade, path: Path, dataset: str, shape: tuple[int, ...]
    ) -> None:
        self._facade, self._path, self._dataset = facade, path, dataset
        self.shape = shape
        self.ndim = len(shape)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return self._facade.read_dataset(self._path, self._dataset, index)


def _of(frames: Any, source: str, most: int) -> MeanImage:
    if frames.ndim == 4 and frames.shape[1] == 1:
        steps: Any = np.s_[:, 0]
    elif frames.ndim in (2, 3):
        steps = np.s_[:]
    else:
        raise FileFormatError(
            f"{source}: expected an image (H, W) or frames (N, H, W), found shape {frames.shape}."
        )
    if frames.ndim == 2:
        return MeanImage(_numbers(frames[...], source), (1, 1), source)
    number = int(frames.shape[0])
    if not number:
        raise FileFormatError(f"{source}: there is no frame in it.")
    step = -(-number // max(1, most))
    size = max(1, int(np.prod(frames.shape[-2:])) * 8)
    block = max(1, _BLOCK // size) * step
    total = np.zeros(frames.shape[-2:])
    taken = 0
    for begin in range(0, number, block):
        part = _numbers(frames[begin : min(begin + block, number) : step], source)
        part = part[steps]
        total += part.sum(axis=0)
        taken += len(part)
    return MeanImage(total / taken, (taken, number), source)


def _numbers(values: npt.NDArray[Any], source: str) -> npt.NDArray[np.float64]:
    if values.dtype.kind not in "buif":
        raise FileFormatError(f"{source}: expected numbers, found {values.dtype}.")
    return values.astype(np.float64)


def _largest(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    images = {
        name: int(np.prod(shape))
        for name, shape in shapes.items()
        if len(shape) in (2, 3, 4) and min(shape[-2:], default=0) > 1
    }
    if not images:
        raise FileFormatError(
            f"{path}: expected a dataset of images (H, W) or frames (N, H, W), found none."
        )
    return max(images, key=lambda name: images[name])


def _picture(path: Path) -> npt.NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            values = host_array(picture)
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path}: it can't be read as an image ({error}).") from error
    if values.ndim == 3:
        raise FileFormatError(f"{path}: expected a grey image, found one with colours.")
    return values
