"""Detector geometry, and the CrystFEL files that hold it.

Axes: z along the beam; of a flat panel fast scan (fs) along +x, slow scan (ss) along +y. Positions
on the detector are pixel indices, so the centre of the first pixel is (0, 0); CrystFEL counts from
the corner of that pixel, half a pixel away, and the conversion is made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from beamline.core.errors import StorageError
from beamline.crystallography._detector import Detector, GeometryError
from beamline.crystallography._geom_reader import read_geometry
from beamline.crystallography._panels import BadRegion, Panel

__all__ = [
    "BadRegion",
    "Detector",
    "GeometryError",
    "Panel",
    "crystfel_geometry",
    "read_geometry",
    "write_geometry",
    "write_list",
]


def crystfel_geometry(detector: Detector, *, mask: bool = False, clen: bool = False) -> str:
    """Return the CrystFEL geometry of a detector whose frames are in CXI files of this project.

    The photon energy is read from the files, per event, and so is the camera length unless `clen`.

    Parameters
    ----------
    detector
        The detector.
    mask
        Whether bad pixels shall be read from the files.
    clen
        Whether the camera length stands in the geometry itself, for use before there are files.

    Notes
    -----
    Made for CrystFEL 0.12, whose manual page ``crystfel_geometry`` defines the terms.
    """
    own_gain = any(key.startswith("adu_per") for p in detector.panels for key, _ in p.settings)
    lines = [
        f"; {len(detector.panels)} panels in a slab of {detector.shape} pixels (ss, fs)",
        f"; distance {detector.distance_m:.9g} m{'' if clen else '; the files hold it per event'}",
        "photon_energy = /LCLS/photon_energy_eV eV",
        f"clen = {detector.distance_m!r}" if clen else "clen = /LCLS/detector_1/EncoderValue mm",
        *([] if own_gain else [f"adu_per_photon = {detector.adu_per_photon!r}"]),
        f"res = {1.0 / detector.panels[0].pitch_m!r}",
        "",
        "data = /entry_1/data_1/data",
        "dim0 = %",
        "dim1 = ss",
        "dim2 = fs",
        "peak_list = /entry_1/result_1",
        "peak_list_type = cxi",
    ]
    if mask:
        lines += [
            "mask = /entry_1/instrument_1/detector_1/mask",
            "mask_good = 0x0000",
            "mask_bad = 0xffff",
        ]
    for panel in detector.panels:
        lines += ["", *_panel_lines(panel, detector.panels[0].pitch_m)]
    for region in detector.bad:
        axes = ("fs", "ss") if region.panel else ("x", "y")
        lines += [""] + ([f"{region.name}/panel = {region.panel}"] if region.panel else [])
        for axis, first, last in zip(axes, region.first, region.last, strict=True):
            lines += [
                f"{region.name}/min_{axis} = {_decimal(first, region.panel)}",
                f"{region.name}/max_{axis} = {_decimal(last, region.panel)}",
            ]
    lines += ["", *(f"{key} = {value}" for key, value in detector.lines), ""]
    return "\n".join(lines)


def _panel_lines(panel: Panel, usual_pitch: float) -> list[str]:
    (ss, fs), (height, width) = panel.origin, panel.shape
    x, y, z = panel.corner
    values: dict[str, object] = {
        "min_fs": fs,
        "max_fs": fs + width - 1,
        "min_ss": ss,
        "max_ss": ss + height - 1,
        "corner_x": repr(float(x)),
        "corner_y": repr(float(y)),
        "fs": _direction_text(panel.fs),
        "ss": _direction_text(panel.ss),
    }
    if z:
        values["coffset"] = repr(float(z))
    if panel.pitch_m != usual_pitch:
        values["res"] = repr(1.0 / panel.pitch_m)
    pairs = [*values.items(), *panel.settings]
    return [f"{panel.name}/{key} = {value}" for key, value in pairs]


def _direction_text(vector: Sequence[float]) -> str:
    # CrystFEL does not know exponents here.
    terms = [
        _decimal(value, "", sign=True) + axis for value, axis in zip(vector, "xyz", strict=True)
    ]
    return " ".join(terms if vector[2] else terms[:2])


def _decimal(value: float, panel: str, *, sign: bool = False) -> str:
    if panel:
        return f"{int(value)}"
    return np.format_float_positional(float(value), trim="0", sign=sign)


def write_geometry(
    path: str | Path, detector: Detector, *, mask: bool = False, clen: bool = False
) -> None:
    """Write `crystfel_geometry` to a file (replaced as a whole)."""
    _replace(Path(path), crystfel_geometry(detector, mask=mask, clen=clen))


def write_list(path: str | Path, files: Iterable[str | Path]) -> None:
    """Write the list of files that ``indexamajig -i`` takes: absolute paths, one per line."""
    _replace(Path(path), "".join(f"{Path(file).resolve()}\n" for file in files))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}.") from error
