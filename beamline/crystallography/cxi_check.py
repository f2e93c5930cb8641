"""Does a CXI file hold what indexing programs rely on? Problems in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.crystallography.cxi import IN_PROGRESS
from beamline.crystallography.cxi_layout import (
    COLUMNS,
    CXI_VERSION,
    DATA,
    DETECTOR,
    PEAK_COLUMNS,
    RESULT,
)

__all__ = ["check_cxi"]

_ENERGY = "/LCLS/photon_energy_eV"
_ENCODER = "/LCLS/detector_1/EncoderValue"
#: Rows read at once, so that a large file needs no more memory than a small one.
_ROWS = 1024


def check_cxi(path: str | Path) -> list[str]:
    """Return what is wrong with a CXI file, one sentence each; an empty list for a sound file.

    Checked are the layout (every required dataset, its rank, type and number of rows), that peaks
    lie on the detector and have an intensity, that energies, distances and times are possible, and
    that the writer has completed the file. A file that can't be read is one problem.
    """
    path = Path(path)
    problems: list[str] = []
    if path.name.endswith(IN_PROGRESS):
        problems.append("the file is in progress, or its writer was killed.")
    try:
        # A writer may hold the lock: what it has flushed can be checked.
        with h5py.File(path, "r", locking=False) as file:
            _check_layout(file, problems)
            if not problems or path.name.endswith(IN_PROGRESS):
                _check_values(file, problems)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        problems.append(f"the file can't be read to its end: {error}.")
    return problems


def _dataset(file: Any, name: str, problems: list[str]) -> Any | None:
    try:
        found = file.get(name)
    except (OSError, KeyError):
        found = None
    if isinstance(found, h5py.Dataset):
        return found
    problems.append(f"{name} is missing.")
    return None


def _check_layout(file: Any, problems: list[str]) -> None:
    version = _dataset(file, "/cxi_version", problems)
    if version is not None and (version.shape != () or version[()] != CXI_VERSION):
        problems.append(f"/cxi_version must be {CXI_VERSION}, found {version[()]}.")
    data = _dataset(file, DATA, problems)
    if data is None:
        return
    if data.ndim != 3:
        problems.append(
            f"{DATA} must be a slab (events, ss, fs), found shape {data.shape}: CrystFEL would "
            f"find no event."
        )
        return
    events, *frame = data.shape
    if data.dtype.kind not in "iu" and data.dtype != np.float32:
        problems.append(f"{DATA} must be of an integer type or float32, found {data.dtype}.")
    if data.chunks != (1, *frame):
        problems.append(f"{DATA} must have one chunk per frame, found chunks {data.chunks}.")
    link = _dataset(file, "/entry_1/data_1/data", problems)
    if link is not None and link != data:
        problems.append(f"/entry_1/data_1/data must be a link to {DATA}.")
    for name in ("distance", "x_pixel_size", "y_pixel_size"):
        number = _dataset(file, f"{DETECTOR}/{name}", problems)
        if number is not None and not (number.shape == () and 0.0 < number[()] < np.inf):
            problems.append(f"{DETECTOR}/{name} must be one positive number, in m.")
    mask = _dataset(file, f"{DETECTOR}/mask", problems)
    if mask is not None and (mask.dtype != np.uint32 or mask.shape[-2:] != tuple(frame)):
        problems.append(
            f"{DETECTOR}/mask must be uint32 {tuple(frame)}, found {mask.dtype} {mask.shape}."
        )
    for name, _, _ in COLUMNS:
        column = _dataset(file, name, problems)
        if column is not None and column.shape != (events,):
            problems.append(f"{name} must have {events} rows, found shape {column.shape}.")
    widths = set()
    for name in (*(column for column, _, _ in PEAK_COLUMNS), "peakSegPosRaw"):
        table = _dataset(file, f"{RESULT}/{name}", problems)
        if table is None:
            continue
        if table.ndim != 2 or table.shape[0] != events:
            problems.append(f"{RESULT}/{name} must have {events} rows, found shape {table.shape}.")
        else:
            widths.add(table.shape[1])
    if len(widths) > 1:
        problems.append(f"the peak arrays must be of one width, found {sorted(widths)}.")
    status = _dataset(file, "/entry_1/exit_status", problems)
    if status is not None and status.asstr()[()] == "running":
        problems.append("the writer did not complete the file: it has no exit status.")


def _check_values(file: Any, problems: list[str]) -> None:
    events, height, width = file[DATA].shape
    for name, label in ((_ENERGY, "photon energy"), (_ENCODER, "distance")):
        values = file[name][()]
        bad = np.flatnonzero(~((values > 0.0) & np.isfinite(values)))
        if bad.size:
            problems.append(
                f"{bad.size} of {events} events have no usable {label}, the first in row {bad[0]}: "
                f"{values[bad[0]]}."
            )
    numbers = file[f"{RESULT}/nPeaks"][()]
    columns = file[f"{RESULT}/peakXPosRaw"].shape[1]
    if numbers.size and (numbers.min() < 0 or numbers.max() > columns):
        problems.append(
            f"nPeaks must be 0 to {columns} (the width of the peak arrays), found "
            f"{numbers.min()} to {numbers.max()}."
        )
        return
    outside = dark = stray = 0
    for start in range(0, events, _ROWS):
        rows = slice(start, start + _ROWS)
        used = np.arange(columns) < numbers[rows, None]
        fs, ss, total = (
            file[f"{RESULT}/{name}"][rows]
            for name in ("peakXPosRaw", "peakYPosRaw", "peakTotalIntensity")
        )
        on = (fs >= -0.5) & (fs <= width - 0.5) & (ss >= -0.5) & (ss <= height - 0.5)
        outside += int(np.count_nonzero(used & ~on))
        dark += int(np.count_nonzero(used & ~(total > 0.0)))
        stray += int(np.count_nonzero(~used & (total != 0.0)))
    if outside:
        problems.append(f"{outside} peaks lie outside the detector of {height} x {width} pixels.")
    if dark:
        problems.append(
            f"{dark} peaks have no intensity: CrystFEL indexes nothing without peakTotalIntensity."
        )
    if stray:
        problems.append(f"{stray} entries beyond nPeaks are not zero.")
