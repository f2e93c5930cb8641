"""Names, types and units of everything in our CXI files (version 1.6, read by CrystFEL 0.12)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError
from beamline.crystallography._cxi_chunks import COMPRESSIONS, ChunkTable, Compression
from beamline.crystallography.geometry import Detector

__all__ = [
    "COLUMNS",
    "COMPRESSIONS",
    "CXI_VERSION",
    "DATA",
    "DETECTOR",
    "LOGITS",
    "PEAK_COLUMNS",
    "PROCESS",
    "RESULT",
    "SCAN",
    "SEGMENTATION",
    "SEGMENTS",
    "ChunkTable",
    "Compression",
    "lay_out",
    "put_text",
    "safe_names",
]

CXI_VERSION = 160
DETECTOR = "/entry_1/instrument_1/detector_1"
DATA = f"{DETECTOR}/data"
RESULT = "/entry_1/result_1"
PROCESS = "/entry_1/process_1"
SCAN = "/entry_1/scan"

#: Dataset below `RESULT`, the attribute of `Peaks` it holds, its type: (events, peaks).
PEAK_COLUMNS: tuple[tuple[str, str, type[np.generic]], ...] = (
    ("peakXPosRaw", "fs", np.float32),
    ("peakYPosRaw", "ss", np.float32),
    ("peakTotalIntensity", "total", np.float32),
    ("peakMaximumValue", "maximum", np.float32),
    ("peakSNR", "snr", np.float32),
    ("peakNPixels", "n_pixels", np.int32),
    ("peakProbability", "probability", np.float32),
)
#: Number of the panel of the stack that each peak is on: int32, shaped like the other columns.
SEGMENTS = f"{RESULT}/peakSegPosRaw"
#: What the segmentation said, where asked for: 1 on peaks (uint8), logits by class (float32).
SEGMENTATION = f"{RESULT}/segmentation_map"
LOGITS = (f"{RESULT}/logit_map_class0", f"{RESULT}/logit_map_class1")
#: One value per event: dataset, type, attributes.
COLUMNS: tuple[tuple[str, Any, Mapping[str, str]], ...] = (
    (f"{RESULT}/nPeaks", np.int32, {}),
    ("/LCLS/photon_energy_eV", np.float64, {"units": "eV"}),
    ("/LCLS/machineTime", np.int64, {"units": "s"}),
    ("/LCLS/machineTimeNanoSeconds", np.int64, {"units": "ns"}),
    ("/LCLS/detector_1/timestamp", np.uint64, {"encoding": "seconds << 32 | nanoseconds"}),
    ("/LCLS/detector_1/EncoderValue", np.float64, {"units": "mm"}),
    ("/entry_1/instrument_1/source_1/energy", np.float64, {"units": "J"}),
    ("/entry_1/event_id", np.int64, {}),
    ("/entry_1/frame_index", np.int64, {}),
    ("/entry_1/run_uid", h5py.string_dtype("utf-8", 36), {}),
    ("/entry_1/batch_id", h5py.string_dtype("utf-8", 64), {}),
)

_ROWS_PER_CHUNK = 256


def lay_out(
    file: Any,
    *,
    detector: Detector,
    dtype: np.dtype[Any],
    max_num_peak: int,
    mask: npt.NDArray[np.uint32] | None,
    entry: Mapping[str, str | int | float],
    scan: Mapping[str, tuple[str, str]],
    compression: Compression,
    maps: bool,
) -> dict[str, ChunkTable]:
    """Create every group and dataset of an open, empty file; columns have no rows yet.

    Parameters
    ----------
    file
        Open `h5py.File`.
    detector, dtype, max_num_peak, mask, entry, compression, maps
        As in `beamline.crystallography.cxi.CXIFile`.
    scan
        Numbers per event by name: name of the dataset, units.

    Returns
    -------
    dict
        The datasets that are written row by row.
    """
    file["cxi_version"] = CXI_VERSION
    tables = {DATA: ChunkTable(file, DATA, detector.shape, dtype, compression)}
    _put_number(file, f"{DETECTOR}/distance", detector.distance_m, "m")
    for axis, pixel in zip("xy", detector.pixel_m, strict=True):
        _put_number(file, f"{DETECTOR}/{axis}_pixel_size", pixel, "m")
    if detector.beam_centre_px is not None:
        for axis, centre in zip("xy", detector.beam_centre_px, strict=True):
            _put_number(file, f"{DETECTOR}/beam_center_{axis}", centre, "pixel")
    _put_number(file, f"{DETECTOR}/adu_per_photon", detector.adu_per_photon, "")
    bad = detector.mask() if mask is None else detector.mask() | mask.astype(np.uint32)
    file.create_dataset(
        f"{DETECTOR}/mask", data=bad, compression="gzip", compression_opts=1, shuffle=True
    )
    file.create_group("/entry_1/data_1")["data"] = h5py.SoftLink(DATA)

    # One chunk per event: partly filled compressed chunks would be rewritten at every flush.
    for name, _, kind in PEAK_COLUMNS:
        table = f"{RESULT}/{name}"
        tables[table] = ChunkTable(file, table, (max_num_peak,), kind, "gzip")
    tables[SEGMENTS] = ChunkTable(file, SEGMENTS, (max_num_peak,), np.int32, "gzip")
    if maps:
        tables[SEGMENTATION] = ChunkTable(file, SEGMENTATION, detector.shape, np.uint8, "gzip")
        for name in LOGITS:
            tables[name] = ChunkTable(file, name, detector.shape, np.float32, compression)
    for name, kind, attributes in COLUMNS:
        _create_column(file, name, kind, attributes)
    # Both places are in use.
    for name in ("machineTime", "machineTimeNanoSeconds"):
        file[f"/LCLS/detector_1/{name}"] = h5py.SoftLink(f"/LCLS/{name}")
    translation = "/entry_1/sample_1/geometry_1/translation"
    _create_column(file, translation, np.float64, {"units": "m"}, (3,))
    file.create_group(SCAN)
    for original, (name, units) in scan.items():
        attributes = {"units": units} if units else {}
        if name != original:
            attributes["original_name"] = original
        _create_column(file, f"{SCAN}/{name}", np.float64, attributes)

    group = file["/entry_1"]
    put_text(group, "exit_status", "running")
    put_text(group, "reason", "the writer has not closed this file")
    file.create_group(PROCESS)
    for name, value in entry.items():
        if name in group:
            raise ConfigurationError(
                f"/entry_1/{name} is what a CXI file holds itself; give {value!r} another name."
            )
        if isinstance(value, str):
            put_text(group, name, value)
        else:
            group[name] = value
    return tables


def put_text(group: Any, name: str, value: str) -> None:
    """Store a text, in place of one that is there."""
    if name in group:
        del group[name]
    group.create_dataset(name, data=value, dtype=h5py.string_dtype())


def safe_names(names: Iterable[str]) -> list[str]:
    """Make names that HDF5 and NeXus accept, each a different one."""
    made: list[str] = []
    for name in names:
        safe = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
        while safe in made:
            safe += "_"
        made.append(safe)
    return made


def _put_number(file: Any, name: str, value: float, units: str) -> None:
    file[name] = np.float64(value)
    if units:
        file[name].attrs["units"] = units


def _create_column(
    file: Any,
    name: str,
    dtype: Any,
    attributes: Mapping[str, str],
    width: tuple[int, ...] = (),
) -> None:
    dataset = file.create_dataset(
        name,
        shape=(0, *width),
        maxshape=(None, *width),
        chunks=(_ROWS_PER_CHUNK, *width),
        dtype=dtype,
    )
    dataset.attrs.update(attributes)
