"""What the written files say: foil position, absorption edge, Bragg spots. Pure readers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import FileFormatError

__all__ = [
    "SpotScore",
    "absorption_map",
    "absorption_profile",
    "extent",
    "frame_with_peaks",
    "peaks_by_frame",
    "score_spots",
    "spectrum",
]

Array = npt.NDArray[np.float64]
#: A found peak belongs to a simulated spot when it lies this close to it, px.
MATCH_RADIUS = 2.0


def _data(path: Path, name: str) -> Array:
    """Read one field of a run's default plot, in the shape in which it is plotted."""
    with h5py.File(path, "r", locking=False) as file:
        group = file[f"entry/{file['entry'].attrs['default']}"]
        if name not in group:
            raise FileFormatError(
                f"{path} has no field {name!r} in {group.name}: it holds {', '.join(group)}."
            )
        return np.asarray(group[name][()], dtype=np.float64)


def _absorption(path: Path) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(_data(path, "i0") / _data(path, "itrans"))


def absorption_profile(path: Path, axis: str) -> tuple[Array, Array]:
    """Return positions and µt = ln(i0/itrans), each (N,), of a line scan's file."""
    return _data(path, axis), _absorption(path)


def absorption_map(path: Path, slow: str, fast: str) -> tuple[Array, Array, Array]:
    """Return slow axis (ny,), fast axis (nx,) and µt (ny, nx) of a mesh scan's file."""
    return _data(path, slow), _data(path, fast), _absorption(path)


def spectrum(path: Path) -> tuple[Array, Array]:
    """Return energy (eV) and µt, each (N,), of an XAFS file."""
    return _data(path, "energy"), _data(path, "intensity")


def extent(position: Array, absorption: Array) -> tuple[float, float]:
    """Find where a foil lies: centre and width between the half heights of its absorption.

    Parameters
    ----------
    position, absorption
        (N,) increasing positions and µt; both edges of the foil must be inside.

    Returns
    -------
    centre, width
        In the units of `position`.

    Raises
    ------
    FileFormatError
        If the profile has no two edges.
    """
    low, high = np.percentile(absorption, [5, 95])
    half = (low + high) / 2
    inside = absorption > half
    first, last = int(np.argmax(inside)), len(inside) - 1 - int(np.argmax(inside[::-1]))
    if first == 0 or last == len(inside) - 1 or not inside.any():
        raise FileFormatError(
            f"the profile from {position[0]:g} to {position[-1]:g} does not show both edges of "
            "the foil."
        )

    def crossing(outer: int, inner: int) -> float:
        return float(np.interp(half, absorption[[outer, inner]], position[[outer, inner]]))

    left, right = crossing(first - 1, first), crossing(last + 1, last)
    return (left + right) / 2, right - left


def peaks_by_frame(paths: list[Path]) -> list[tuple[int, Array]]:
    """Read the peaks of CXI files: (frame of the run, (n, 2) fs and ss in px) for each event."""
    frames = []
    for path in paths:
        with h5py.File(path, "r", locking=False) as file:
            result = file["entry_1/result_1"]
            counts = result["nPeaks"][()]
            numbers = file["entry_1/frame_index"][()]
            x, y = result["peakXPosRaw"][()], result["peakYPosRaw"][()]
        for row, (count, number) in enumerate(zip(counts, numbers, strict=True)):
            frames.append(
                (int(number), np.column_stack([x[row, :count], y[row, :count]]).astype(float))
            )
    return frames


def frame_with_peaks(path: Path, row: int = 0) -> tuple[npt.NDArray[Any], Array]:
    """Read one image (ss, fs) of a CXI file and its peaks (n, 2)."""
    with h5py.File(path, "r", locking=False) as file:
        image = file["entry_1/instrument_1/detector_1/data"][row]
    return image, peaks_by_frame([path])[row][1]


@dataclass(frozen=True)
class SpotScore:
    """How found peaks compare with simulated spots.

    Attributes
    ----------
    spots, found, recovered, false
        Numbers of visible simulated spots, of found peaks, of spots with a peak, and of peaks
        without a spot.
    rms
        Root mean square distance of matched pairs, px.
    """

    spots: int
    found: int
    recovered: int
    false: int
    rms: float

    @property
    def recall(self) -> float:
        """Fraction of the visible spots that were found."""
        return self.recovered / self.spots if self.spots else float("nan")

    @property
    def false_rate(self) -> float:
        """Fraction of the peaks that belong to no spot."""
        return self.false / self.found if self.found else 0.0


def score_spots(pairs: list[tuple[Array, Array]]) -> SpotScore:
    """Match peaks to spots, frame by frame, each spot to the nearest peak within 2 px.

    Parameters
    ----------
    pairs
        Found (n, 2) and true (m, 2) positions of each frame, px.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    spots = found = recovered = 0
    squares = 0.0
    for peaks, truth in pairs:
        spots += len(truth)
        found += len(peaks)
        if not len(peaks) or not len(truth):
            continue
        distance = cdist(peaks, truth)
        rows, columns = linear_sum_assignment(np.minimum(distance, 10 * MATCH_RADIUS))
        close = distance[rows, columns][distance[rows, columns] <= MATCH_RADIUS]
        recovered += len(close)
        squares += float(np.sum(close**2))
    rms = float(np.sqrt(squares / recovered)) if recovered else float("nan")
    return SpotScore(spots, found, recovered, found - recovered, rms)
