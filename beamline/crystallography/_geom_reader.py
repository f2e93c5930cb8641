"""From the text of a CrystFEL geometry to a detector."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from beamline.core.errors import FileFormatError
from beamline.core.units import HC
from beamline.crystallography._detector import Detector
from beamline.crystallography._geom_file import (
    GeometryText,
    direction,
    number,
    read_text,
    whole_number,
)
from beamline.crystallography._panels import BadRegion, Panel

__all__ = ["read_geometry"]

_log = logging.getLogger(__name__)

#: A slab of more pixels is no detector but a wrong number.
_MAX_PIXELS = 2**28


def read_geometry(
    path: str | Path,
    *,
    distance_m: float | None = None,
    stack_shape: tuple[int, int, int] | None = None,
) -> Detector:
    """Read a CrystFEL geometry.

    Any names and number of panels, rotated and tilted, in one array (slab) or in several (``dim``
    with a number, ``data`` per panel): several are taken as a slab with one below the other.

    Parameters
    ----------
    path
        The ``.geom`` file.
    distance_m
        Camera length, m, for a file that refers to the data for it (``clen = /path mm``).
    stack_shape
        How frames come, if not in a slab: (panels, ss, fs). By default panels that are named like
        ASICs of a module (``p3a0``, ``p3a1``, …) and fill it share a panel of the stack, as do
        those in one array; all others have one each.

    Raises
    ------
    FileFormatError
        If the file can't be read, a value is missing or wrong, or the panels make no detector.
    GeometryError
        If `stack_shape` does not fit.
    """
    path = Path(path)
    text = read_text(path)
    if not text.panels:
        raise FileFormatError(f"the geometry {path} has no panel: no line like 'p0/min_fs = 0'.")
    panels = _place([_read_panel(text, name) for name in text.panels], text)
    shape = tuple(max(p.origin[a] + p.shape[a] for p in panels) for a in (0, 1))
    if math.prod(shape) > _MAX_PIXELS:
        raise FileFormatError(f"the geometry {path} has a slab of {shape} pixels: too many.")
    distance, panels = _distance(path, text.top.get("clen"), distance_m, panels)
    gain, panels = _gain(panels)
    for key in ("detector_shift_x", "detector_shift_y"):
        if key in text.top:
            _log.warning("%s of the geometry %s is not applied", key, path)
    first = panels[0]
    flat = (
        len(panels) == 1
        and first.fs == (1.0, 0.0, 0.0)
        and first.ss[0] == first.ss[2] == first.corner[2] == 0.0
        and first.ss[1] > 0.0
    )
    steps = (math.hypot(*first.fs), math.hypot(*first.ss))
    try:
        detector = Detector(
            shape=(shape[0], shape[1]),
            distance_m=distance,
            pixel_m=(first.pitch_m * steps[0], first.pitch_m * steps[1]),
            beam_centre_px=(
                first.origin[1] - first.corner[0] - 0.5,
                first.origin[0] - first.corner[1] / first.ss[1] - 0.5,
            )
            if flat
            else None,
            adu_per_photon=gain,
            panels=tuple(panels),
            bad=tuple(_read_bad(text, panels)),
            photon_energy_eV=_photon_energy(text),
            lines=tuple(text.lines),
        )
    except ValueError as error:
        raise FileFormatError(f"the geometry {path} makes no detector: {error}") from None
    return detector if stack_shape is None else detector.for_stack(stack_shape)


def _read_panel(text: GeometryText, name: str) -> Panel:
    edges = {key: whole_number(text, name, key) for key in ("min_ss", "max_ss", "min_fs", "max_fs")}
    shape = (edges["max_ss"] - edges["min_ss"] + 1, edges["max_fs"] - edges["min_fs"] + 1)
    resolution = number(text, name, "res")
    if min(shape) < 1 or resolution <= 0:
        raise FileFormatError(
            f"panel {name} in the geometry {text.path} makes no detector: it has {shape} pixels "
            f"(ss, fs) and res = {resolution:g}, which must be positive."
        )
    fs, ss = direction(text, name, "fs"), direction(text, name, "ss")
    if math.hypot(*np.cross(fs, ss)) < 1e-6:
        raise FileFormatError(
            f"panel {name} in the geometry {text.path} has fs and ss in one direction: {fs}, {ss}."
        )
    settings = tuple(text.panels[name].settings)
    for key, value in settings:
        try:
            good = math.isfinite(float(value)) and (key != "mask_edge_pixels" or int(value) >= 0)
        except ValueError:
            good = key == "no_index" and value.lower() in ("true", "false")
        if not good:
            raise FileFormatError(
                f"{name}/{key} in the geometry {text.path} must be a number, found {value!r}."
            )
    return Panel(
        name=name,
        origin=(edges["min_ss"], edges["min_fs"]),
        shape=shape,
        corner=(
            number(text, name, "corner_x"),
            number(text, name, "corner_y"),
            number(text, name, "coffset", 0.0),
        ),
        fs=fs,
        ss=ss,
        pitch_m=1.0 / resolution,
        settings=settings,
    )


def _place(panels: list[Panel], text: GeometryText) -> list[Panel]:
    """Give every panel its place in the slab and in the stack."""
    arrays = [_array(text, panel.name) for panel in panels]
    order = sorted(set(arrays))
    if len(order) > 1:
        height = max(panel.origin[0] + panel.shape[0] for panel in panels)
        units = [order.index(array) for array in arrays]
        return [
            replace(
                panel,
                unit=unit,
                unit_origin=panel.origin,
                origin=(unit * height + panel.origin[0], panel.origin[1]),
            )
            for panel, unit in zip(panels, units, strict=True)
        ]
    modules = [re.sub(r"a\d+$", "", panel.name) for panel in panels]
    if 1 < len(set(modules)) < len(panels) or len(set(modules)) == 1 < len(panels):
        joined = _by_module(panels, modules)
        if joined is not None:
            return joined
    return [replace(panel, unit=unit) for unit, panel in enumerate(panels)]


def _by_module(panels: list[Panel], modules: list[str]) -> list[Panel] | None:
    """Let panels of a module share one of the stack; None if they don't fill equal rectangles."""
    order = list(dict.fromkeys(modules))
    corners, sizes = [], set()
    for module in order:
        group = [p for p, name in zip(panels, modules, strict=True) if name == module]
        first = [min(p.origin[axis] for p in group) for axis in (0, 1)]
        last = [max(p.origin[axis] + p.shape[axis] for p in group) for axis in (0, 1)]
        size = (last[0] - first[0], last[1] - first[1])
        sizes.add(size)
        if sum(math.prod(p.shape) for p in group) != math.prod(size) or len(sizes) > 1:
            return None
        corners.append(first)
    placed = []
    for panel, module in zip(panels, modules, strict=True):
        top, left = corners[order.index(module)]
        origin = (panel.origin[0] - top, panel.origin[1] - left)
        placed.append(replace(panel, unit=order.index(module), unit_origin=origin))
    return placed


def _array(text: GeometryText, name: str) -> tuple[str, tuple[int, ...]]:
    """Return what says in which array a panel is: the dataset, and numbers of its dimensions."""
    panel = text.panels[name]
    dims = [panel.dims[key] for key in sorted(panel.dims)] if panel.dims else ["ss", "fs"]
    fixed = [dim for dim in dims if dim not in ("ss", "fs", "%")]
    if dims.count("ss") != 1 or dims.count("fs") != 1 or dims.index("ss") > dims.index("fs"):
        raise FileFormatError(
            f"panel {name} in the geometry {text.path} must have one dimension ss and after it one "
            f"fs, found {' '.join(dims)}."
        )
    if not all(dim.isdecimal() and len(dim) < 7 for dim in fixed):
        raise FileFormatError(
            f"the dimensions of panel {name} in the geometry {text.path} must be ss, fs, % or a "
            f"number, found {' '.join(dims)}."
        )
    return panel.values.get("data", ""), tuple(map(int, fixed))


def _read_bad(text: GeometryText, panels: list[Panel]) -> list[BadRegion]:
    by_name = {panel.name: panel for panel in panels}
    regions = []
    for name, values in text.bad.items():
        axes = ("fs", "ss") if any(key.endswith("s") for key in values) else ("x", "y")
        wanted = {f"{end}_{axis}" for end in ("min", "max") for axis in axes}
        panel = values.get("panel", panels[0].name if len(panels) == 1 else "")
        try:
            numbers = {key: float(values[key]) for key in wanted}
            usable = all(map(math.isfinite, numbers.values())) and set(values) <= {*wanted, "panel"}
        except (KeyError, ValueError):
            usable = False
        if not usable or (axes == ("fs", "ss") and panel not in by_name):
            raise FileFormatError(
                f"the bad region {name} in the geometry {text.path} must have the numbers min_x, "
                f"max_x, min_y and max_y, or min_fs, max_fs, min_ss, max_ss and the name of a "
                f"panel, found {values}."
            )
        first = [numbers[f"min_{axis}"] for axis in axes]
        last = [numbers[f"max_{axis}"] for axis in axes]
        if axes == ("x", "y"):
            panel = ""
        else:
            # From the array of the panel to the slab; then onto the panel.
            own = by_name[panel]
            shift = [
                own.origin[axis] - whole_number(text, panel, key)
                for axis, key in ((1, "min_fs"), (0, "min_ss"))
            ]
            low = own.origin[::-1]
            high = [a + b - 1 for a, b in zip(low, own.shape[::-1], strict=True)]
            first = [max(a + s, b) for a, s, b in zip(first, shift, low, strict=True)]
            last = [min(a + s, b) for a, s, b in zip(last, shift, high, strict=True)]
        regions.append(BadRegion(name, panel, (first[0], first[1]), (last[0], last[1])))
    return regions


def _distance(
    path: Path, clen: str | None, given: float | None, panels: list[Panel]
) -> tuple[float, list[Panel]]:
    """Return the camera length; where it is only in the panels' offsets, it is taken from them."""
    if clen is None:
        raise FileFormatError(f"the geometry {path} has no value for 'clen'.")
    if clen.startswith("/"):
        if given is None:
            raise FileFormatError(
                f"the geometry {path} takes the camera length from {clen!r}; give it "
                "(distance_m; cxi-writer: --distance-mm)."
            )
        return given, panels
    words = clen.split()
    scale = {"m": 1.0, "mm": 1e-3}.get(words[1] if len(words) > 1 else "m")
    try:
        value = float(words[0])
    except ValueError:
        value = math.nan
    if scale is None or not math.isfinite(value):
        raise FileFormatError(
            f"'clen' in the geometry {path} must be a length in m or mm, found {clen!r}."
        )
    distance, offset = value * scale, panels[0].corner[2]
    if distance <= 0.0 < distance + offset:
        moved = [replace(p, corner=(*p.corner[:2], p.corner[2] - offset)) for p in panels]
        return distance + offset, moved
    return distance, panels


def _gain(panels: list[Panel]) -> tuple[float, list[Panel]]:
    """Return the image units per photon, out of the panels if it is the same for all."""
    gains = {tuple(item for item in p.settings if item[0].startswith("adu_per")) for p in panels}
    if gains == {()}:
        return 1.0, panels
    usual = next(iter(gains))
    if len(gains) > 1 or [key for key, _ in usual] != ["adu_per_photon"]:
        return 1.0, panels
    key, value = usual[0]
    rest = [
        replace(p, settings=tuple(item for item in p.settings if item[0] != key)) for p in panels
    ]
    return float(value), rest


def _photon_energy(text: GeometryText) -> float | None:
    """Return a fixed photon energy, eV, if there is one."""
    for key, units in (
        ("photon_energy", {"": 1.0, "eV": 1.0, "keV": 1e3}),
        ("wavelength", {"A": 1.0, "m": 1e10}),
    ):
        words = text.top.get(key, "/").split()
        if words[0].startswith("/"):
            continue
        scale = units.get(words[1] if len(words) > 1 else "")
        try:
            value = float(words[0]) * (scale or math.nan)
        except ValueError:
            value = math.nan
        if not 0.0 < value < math.inf:
            raise FileFormatError(
                f"{key!r} in the geometry {text.path} must be positive and in "
                f"{' or '.join(filter(None, units))}, found {text.top[key]!r}."
            )
        return value if key == "photon_energy" else HC / value
    return None
