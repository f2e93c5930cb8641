"""Geometry of a flat detector of one panel, and the CrystFEL files that describe it.

Axes: z along the beam, fast scan (fs) along +x, slow scan (ss) along +y. Positions on the detector
are pixel indices, so the centre of the first pixel is (0, 0); CrystFEL counts from the corner of
that pixel, half a pixel away, and the conversion is made here and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from beamline.core.errors import FileFormatError

__all__ = ["Detector", "crystfel_geometry", "read_geometry", "write_geometry", "write_list"]

_PANEL = "p0"


@dataclass(frozen=True)
class Detector:
    """A flat detector normal to the beam.

    Attributes
    ----------
    shape
        Pixels (ss, fs).
    distance_m
        Sample to detector, m.
    pixel_m
        Pixel size along (fs, ss), m.
    beam_centre_px
        Where the direct beam hits, (fs, ss), px; 0 is the centre of the first pixel.
    adu_per_photon
        Image units per photon.

    Raises
    ------
    ValueError
        If a length is not positive and finite, or the beam centre is not finite.
    """

    shape: tuple[int, int]
    distance_m: float
    pixel_m: tuple[float, float]
    beam_centre_px: tuple[float, float]
    adu_per_photon: float = 1.0

    def __post_init__(self) -> None:
        positive = {
            "shape": self.shape,
            "distance_m": (self.distance_m,),
            "pixel_m": self.pixel_m,
            "adu_per_photon": (self.adu_per_photon,),
        }
        for name, values in positive.items():
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise ValueError(
                    f"detector {name} must be positive and finite, found {getattr(self, name)}."
                )
        if not all(math.isfinite(value) for value in self.beam_centre_px):
            raise ValueError(
                f"detector beam_centre_px must be finite, found {self.beam_centre_px}."
            )


def crystfel_geometry(detector: Detector, *, mask: bool = False) -> str:
    """Return the CrystFEL geometry of a detector whose frames are in CXI files of this project.

    Camera length and photon energy are read from the files, per event.

    Parameters
    ----------
    detector
        The detector.
    mask
        Whether bad pixels shall be read from the files.

    Notes
    -----
    Made for CrystFEL 0.12, whose manual page ``crystfel_geometry`` defines the terms.
    """
    height, width = detector.shape
    pixel_fs, pixel_ss = detector.pixel_m
    aspect = pixel_ss / pixel_fs
    corner_x = -(detector.beam_centre_px[0] + 0.5)
    corner_y = -(detector.beam_centre_px[1] + 0.5) * aspect
    lines = [
        "; one flat panel, fast scan along +x, slow scan along +y",
        f"; distance {detector.distance_m:.9g} m; the files hold it per event",
        "photon_energy = /LCLS/photon_energy_eV eV",
        "clen = /LCLS/detector_1/EncoderValue mm",
        f"adu_per_photon = {detector.adu_per_photon:.9g}",
        f"res = {1.0 / pixel_fs:.9g}",
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
    lines += [
        "",
        f"{_PANEL}/min_fs = 0",
        f"{_PANEL}/max_fs = {width - 1}",
        f"{_PANEL}/min_ss = 0",
        f"{_PANEL}/max_ss = {height - 1}",
        f"{_PANEL}/corner_x = {corner_x:.9g}",
        f"{_PANEL}/corner_y = {corner_y:.9g}",
        f"{_PANEL}/fs = +1.0x +0.0y",
        f"{_PANEL}/ss = +0.0x +{aspect:.9g}y",
        "",
    ]
    return "\n".join(lines)


def write_geometry(path: Path, detector: Detector, *, mask: bool = False) -> None:
    """Write `crystfel_geometry` to a file (replaced as a whole)."""
    _replace(path, crystfel_geometry(detector, mask=mask))


def write_list(path: Path, files: Iterable[Path]) -> None:
    """Write the list of files that ``indexamajig -i`` takes: absolute paths, one per line."""
    _replace(path, "".join(f"{file.resolve()}\n" for file in files))


def read_geometry(path: Path, *, distance_m: float | None = None) -> Detector:
    """Read a CrystFEL geometry of one panel that lies along the axes.

    Parameters
    ----------
    path
        The ``.geom`` file.
    distance_m
        Camera length, m, for a file that refers to the data for it (``clen = /path mm``).

    Raises
    ------
    FileFormatError
        If the file can't be read, a value is missing or is no number, there is more than one panel,
        or the panel is rotated.
    """
    values = _read_values(path)
    panels = sorted({key.split("/")[0] for key in values if key.endswith("/corner_x")})
    if len(panels) != 1:
        raise FileFormatError(
            f"the geometry {path} must have one panel, found {len(panels)} "
            f"({', '.join(panels[:4]) or 'no corner_x'})."
        )
    panel = panels[0]

    def text(key: str) -> str:
        found = values.get(f"{panel}/{key}", values.get(key))
        if found is None:
            raise FileFormatError(f"the geometry {path} has no value for {key!r}.")
        return found

    def number(key: str) -> float:
        try:
            return float(text(key))
        except ValueError:
            raise FileFormatError(
                f"{key!r} in the geometry {path} must be a number, found {text(key)!r}."
            ) from None

    across, down = _vector(path, text("fs")), _vector(path, text("ss"))
    if across != (1.0, 0.0) or down[0] != 0.0 or down[1] <= 0.0:
        raise FileFormatError(
            f"panel {panel} in the geometry {path} must have fs along +x and ss along +y, found "
            f"fs = {text('fs')}, ss = {text('ss')}."
        )
    if number("min_fs") or number("min_ss"):
        raise FileFormatError(f"panel {panel} in the geometry {path} must start at pixel (0, 0).")
    pixel = 1.0 / number("res")
    gain = number("adu_per_photon") if "adu_per_photon" in values else 1.0
    try:
        return Detector(
            shape=(int(number("max_ss")) + 1, int(number("max_fs")) + 1),
            distance_m=_distance(path, text("clen"), distance_m),
            pixel_m=(pixel, pixel * down[1]),
            beam_centre_px=(-number("corner_x") - 0.5, -number("corner_y") / down[1] - 0.5),
            adu_per_photon=gain,
        )
    except ValueError as error:
        raise FileFormatError(f"the geometry {path} makes no detector: {error}") from None


def _read_values(path: Path) -> Mapping[str, str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read the geometry {path}: {error}.") from None
    values = {}
    for line in content.splitlines():
        key, equals, value = line.split(";")[0].partition("=")
        if equals:
            values[key.strip()] = value.strip()
    return values


def _vector(path: Path, text: str) -> tuple[float, float]:
    """Parse ``+1.0x -0.5y`` into (x, y)."""
    compact = text.replace(" ", "")
    terms = re.findall(r"([+-]?(?:\d+\.?\d*|\.\d+)?(?:[eE][+-]?\d+)?)([xyz])", compact)
    if not terms or "".join(a + b for a, b in terms) != compact:
        raise FileFormatError(f"direction {text!r} in the geometry {path} can't be understood.")
    found = {"x": 0.0, "y": 0.0, "z": 0.0}
    for value, axis in terms:
        found[axis] += float(value + "1" if value in ("", "+", "-") else value)
    if found["z"]:
        raise FileFormatError(f"the geometry {path} has a panel that is not normal to the beam.")
    return found["x"], found["y"]


def _distance(path: Path, text: str, given: float | None) -> float:
    if text.startswith("/"):
        if given is None:
            raise FileFormatError(
                f"the geometry {path} takes the camera length from {text!r}; give distance_m."
            )
        return given
    words = text.split()
    scale = {"m": 1.0, "mm": 1e-3}.get(words[1] if len(words) > 1 else "m")
    try:
        value = float(words[0])
    except (ValueError, IndexError):
        value = math.nan
    if scale is None or not math.isfinite(value):
        raise FileFormatError(
            f"'clen' in the geometry {path} must be a length in m or mm, found {text!r}."
        )
    return value * scale


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
