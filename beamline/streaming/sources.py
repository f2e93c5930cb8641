"""Frames for Q1: from simulated stills, and from CXI or HDF5 files."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError, FileFormatError
from beamline.streaming.inference import PipelineInput
from beamline.streaming.simulate import timestamp

__all__ = ["frames_of_files", "frames_of_stills", "paced"]

#: Where frames are in files of this field: data, photon energy (eV) and time of each frame.
_LAYOUTS = (
    ("/entry_1/data_1/data", "/LCLS/photon_energy_eV", "/LCLS/detector_1/timestamp"),
    (
        "/entry/data/data",
        "/entry/instrument/NDAttributes/PhotonEnergy",
        "/entry/instrument/NDAttributes/NDArrayTimeStamp",
    ),
    ("/entry/instrument/detector/data", "/entry/energy", ""),
)


class _Still(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def image(self) -> npt.NDArray[np.uint16]: ...
    @property
    def energy_eV(self) -> float: ...  # noqa: N802  (the unit belongs to the name)
    @property
    def time_ns(self) -> int: ...


def frames_of_stills(
    stills: Iterable[_Still], batch_size: int, run: str
) -> Iterator[PipelineInput]:
    """Make items of Q1 from simulated stills; metadata ``still`` is the number of each."""
    for number, group in enumerate(_batched(stills, batch_size)):
        yield PipelineInput(
            image_data=np.stack([s.image.reshape(-1, *s.image.shape[-2:]) for s in group]),
            metadata={
                "run_uid": run,
                "photon_energy": np.array([s.energy_eV for s in group]),
                "timestamp": np.array([timestamp(s.time_ns) for s in group], np.uint64),
                "still": np.array([s.number for s in group]),
            },
            batch_id=f"{run}-{number:07d}",
        )


def frames_of_files(
    paths: Sequence[Path],
    batch_size: int,
    run: str,
    *,
    dataset: str | None = None,
    photon_energy: float | None = None,
    total: int | None = None,
) -> Iterator[PipelineInput]:
    """Make items of Q1 from the frames of files, in order.

    Parameters
    ----------
    paths
        CXI files, frame files of the area detector, other HDF5.
    batch_size
        Frames per item; an item holds frames of one file.
    run
        Uid of the run.
    dataset
        Path of the frames, (n, ss, fs) or (n, panels, ss, fs); by default as found.
    photon_energy
        eV, for files that do not hold it.
    total
        Frames at most.

    Raises
    ------
    FileFormatError
        If a file can't be read, or holds no frames.
    ConfigurationError
        If a photon energy is neither in a file nor given.
    """
    left = math.inf if total is None else total
    batches = itertools.count()
    for path in paths:
        try:
            with h5py.File(path, "r", locking=False) as file:
                frames, energies, times = _columns(file, path, dataset, photon_energy)
                for start in range(0, len(frames), batch_size):
                    count = int(min(batch_size, len(frames) - start, left))
                    if count < 1:
                        return
                    rows = slice(start, start + count)
                    pixels = frames[rows]
                    metadata: dict[str, Any] = {
                        "run_uid": run,
                        "photon_energy": energies[rows],
                        "file": str(path),
                        "frame_index": np.arange(start, start + count),
                    }
                    if times is not None:
                        metadata["timestamp"] = times[rows]
                    yield PipelineInput(
                        image_data=pixels[:, None] if pixels.ndim == 3 else pixels,
                        metadata=metadata,
                        batch_id=f"{run}-{next(batches):07d}",
                    )
                    left -= count
        except (OSError, RuntimeError, KeyError) as error:
            raise FileFormatError(
                f"the frames of {path} can't be read: {' '.join(str(error).split())}."
            ) from None


def paced(
    items: Iterable[PipelineInput], rate: float | None, frames_per_item: int
) -> Iterator[PipelineInput]:
    """Give items no faster than `rate` frames per second; None: as fast as they come."""
    began = time.monotonic()
    for number, item in enumerate(items):
        if rate is not None:
            due = began + number * frames_per_item / rate
            time.sleep(max(0.0, due - time.monotonic()))
        yield item


def _columns(
    file: h5py.File, path: Path, dataset: str | None, photon_energy: float | None
) -> tuple[Any, npt.NDArray[np.float64], npt.NDArray[np.uint64] | None]:
    """Return frames, energies (eV) and time stamps of Q2 (None: unknown) of a file."""
    known = [layout for layout in _LAYOUTS if layout[0] in file]
    name = dataset or (known[0][0] if known else "")
    frames = file.get(name) if name else None
    if not isinstance(frames, h5py.Dataset) or frames.ndim not in (3, 4):
        raise FileFormatError(
            f"{path} has no frames (n, ss, fs) at {name or ' or '.join(x[0] for x in _LAYOUTS)}."
        )
    beside = [layout[1:] for layout in _LAYOUTS if layout[0] == name] or [("", "")]
    energy_name, time_name = beside[0]
    if photon_energy is not None:
        energies = np.full(len(frames), photon_energy)
    elif energy_name and energy_name in file:
        energies = np.broadcast_to(np.ravel(file[energy_name][()]), (len(frames),)).astype(float)
    else:
        raise ConfigurationError(
            f"{path} holds no photon energy for {name}: set source.photon_energy_eV."
        )
    times = None
    if time_name and time_name in file:
        found = np.ravel(file[time_name][()])[: len(frames)]
        if found.dtype.kind == "f":
            found = np.array([timestamp(round(t * 1e9)) for t in found.tolist()], np.uint64)
        times = found.astype(np.uint64) if len(found) == len(frames) else None
    return frames, energies, times


def _batched(items: Iterable[_Still], size: int) -> Iterator[list[_Still]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
