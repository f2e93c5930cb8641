"""XPCS of frames in a file: area-detector HDF5, dense or sparse, and plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.core.errors import FileFormatError, MissingError
from beamline.xpcs.analysis import XPCSAnalysis
from callbacks._continuity import Continuity, Gap
from callbacks._frame_blocks import BlockSource, FrameBlock

__all__ = ["ArraySource", "analyse", "facts_of", "open_source"]

#: Frames of a plain array that are taken at once.
_BLOCK = 256
_EVENTS = "/entry/events"
_STACKS = ("/entry/data/data", "/entry/instrument/detector/data", "/exchange/data")
_ATTRIBUTES = "/entry/instrument/NDAttributes"


class ArraySource:
    """Frames of a ``.npy`` file, (n, H, W)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._frames = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{path} can't be read as an array: {error}.") from None
        if self._frames.ndim != 3:
            raise FileFormatError(
                f"{path} has the shape {self._frames.shape}: expected frames, (n, rows, columns)."
            )
        self.shape = (int(self._frames.shape[1]), int(self._frames.shape[2]))

    def rows(self) -> int:
        """Return how many frames there are."""
        return len(self._frames)

    def read_block(self, start: int, stop: int) -> FrameBlock:
        """Read rows from `start` on: up to `stop`, or fewer."""
        stop = min(stop, start + _BLOCK)
        return FrameBlock(np.array(self._frames[start:stop]), None, None, None, None)


def open_source(path: Path, dataset: str | None = None) -> tuple[Any, tuple[int, int]]:
    """Find the frames in a file.

    Parameters
    ----------
    dataset
        Where they are; by default where area detectors put them, else the only stack there is.

    Returns
    -------
    source : BlockSource or ArraySource
    shape : tuple of int
        (H, W) of a frame.

    Raises
    ------
    FileFormatError, MissingError
        If there are none, or several and nobody says which.
    """
    if path.suffix == ".npy":
        array = ArraySource(path)
        return array, array.shape
    try:
        with h5py.File(path, "r", locking=False) as file:
            if dataset is None and f"{_EVENTS}/event_index" in file:
                shape = tuple(int(n) for n in np.ravel(file[f"{_EVENTS}/frame_shape"][()]))
                if len(shape) != 2:
                    raise FileFormatError(f"{path} has frames of {shape}: expected one panel.")
                source = BlockSource(
                    path, f"{_EVENTS}/event_index", event_id=f"{_EVENTS}/event_id",
                    frame_shape=shape,
                )  # fmt: skip
                return source, (shape[0], shape[1])
            name = dataset or _stack(path, file)
            found = file.get(name)
            if not isinstance(found, h5py.Dataset) or found.ndim != 3:
                raise MissingError(
                    f"{path} has no stack of frames (n, rows, columns) at {name}; it has "
                    f"{', '.join(_stacks(file)) or 'none at all'}."
                )
            return BlockSource(path, name), (int(found.shape[1]), int(found.shape[2]))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(f"{path} can't be opened as HDF5: {reason}.") from None


def _stack(path: Path, file: Any) -> str:
    for name in _STACKS:
        if isinstance(file.get(name), h5py.Dataset):
            return name
    stacks = _stacks(file)
    if len(stacks) != 1:
        raise MissingError(
            f"{path} has {len(stacks)} stacks of frames ({', '.join(stacks[:5]) or 'none'}): say "
            "which with --dataset."
        )
    return stacks[0]


def _stacks(file: Any) -> list[str]:
    found: list[str] = []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim == 3 and node.dtype.kind in "iuf":
            found.append(f"/{name}")

    file.visititems(look)
    return found


def facts_of(path: Path) -> dict[str, float]:
    """Return what the detector stored with the frames: ``energy`` (eV), ``exposure`` (s)."""
    facts: dict[str, float] = {}
    if path.suffix == ".npy":
        return facts
    with h5py.File(path, "r", locking=False) as file:
        for key, name in (("energy", "PhotonEnergy"), ("exposure", "ExposureTime")):
            values = file.get(f"{_ATTRIBUTES}/{name}")
            if isinstance(values, h5py.Dataset) and values.shape[0]:
                facts[key] = float(values[0])
    return facts


def analyse(
    source: Any, analysis: XPCSAnalysis, progress: Callable[[int], object]
) -> Iterator[str]:
    """Correlate all frames of a source; yield a sentence for whatever is not as it should be.

    Parameters
    ----------
    progress
        Called with the number of frames that were just taken.
    """
    continuity = Continuity()
    total, done = source.rows(), 0
    while done < total:
        block = source.read_block(done, total)
        done += len(block)
        for item in continuity.parts(block):
            if isinstance(item, FrameBlock):
                analysis.take(item.frames, item.pixels, item.first)
            elif isinstance(item, Gap):
                analysis.skip(item.number)
                yield (
                    f"{item.number} frames are missing after frame "
                    f"{analysis.n_frames + analysis.n_missing - item.number}."
                )
            else:
                analysis.restart()
                yield f"the detector began anew after {analysis.n_frames} frames ({item.reason})."
        progress(len(block))
