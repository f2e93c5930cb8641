"""CrystFEL geometry files as text: keys and values by panel, with the rules of CrystFEL 0.12.

A top-level key of a panel holds for the panels that first appear after it. Made after the manual
page ``crystfel_geometry``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from beamline.core.errors import FileFormatError

__all__ = ["GeometryText", "PanelText", "direction", "number", "read_text", "whole_number"]

#: Larger files are no geometries.
_MAX_BYTES = 16_000_000
#: Keys of panels that are passed on as they are; flags may come several times.
_FLAGS = ("flag_equal", "flag_lessthan", "flag_morethan")
_SETTINGS = ("adu_per_eV", "adu_per_photon", "max_adu", "mask_edge_pixels", "no_index", *_FLAGS)


@dataclass
class PanelText:
    """What a file says of one panel, or of all that follow.

    Attributes
    ----------
    values
        By key.
    dims
        By dimension of the data: ``ss``, ``fs``, ``%`` or a number.
    settings
        Keys that are passed on.
    """

    values: dict[str, str] = field(default_factory=dict)
    dims: dict[int, str] = field(default_factory=dict)
    settings: list[tuple[str, str]] = field(default_factory=list)

    def copy(self) -> PanelText:
        """Return a panel that begins with what holds here."""
        return PanelText(dict(self.values), dict(self.dims), list(self.settings))

    def put(self, key: str, value: str) -> None:
        """Take a line."""
        if key.startswith("dim") and key[3:].isdecimal() and len(key) < 6:
            self.dims[int(key[3:])] = value
        elif key in _SETTINGS:
            if key not in _FLAGS:
                self.settings = [item for item in self.settings if item[0] != key]
            self.settings.append((key, value))
        else:
            self.values[key] = value


@dataclass
class GeometryText:
    """What a file says, by panel.

    Attributes
    ----------
    path
        For messages.
    top
        Keys of the whole detector.
    panels, bad
        By name, in order of appearance.
    lines
        Groups of panels, the bandwidth, shifts: keys that follow the panels.
    """

    path: Path
    top: dict[str, str] = field(default_factory=dict)
    panels: dict[str, PanelText] = field(default_factory=dict)
    bad: dict[str, dict[str, str]] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)


_TOP = (
    *("photon_energy", "wavelength", "electron_voltage", "clen", "peak_list", "peak_list_type"),
    *("detector_shift_x", "detector_shift_y", "bandwidth"),
)


def read_text(path: Path) -> GeometryText:
    """Read a file.

    Raises
    ------
    FileFormatError
        If it can't be read, is no text, or has a line that is no comment and has no ``=``.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FileFormatError(f"the geometry {path} is larger than {_MAX_BYTES // 10**6} MB.")
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read the geometry {path}: {error}.") from None
    found = GeometryText(path)
    defaults = PanelText()
    for line_number, line in enumerate(re.split(r"\r\n|\r|\n", content), 1):
        text = line.split(";")[0].strip()
        if not text:
            continue
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise FileFormatError(
                f"line {line_number} of the geometry {path} must be 'key = value' or a comment "
                f"after ';', found {line.strip()[:80]!r}."
            )
        owner, slash, key = name.partition("/")
        if not slash:
            if name.startswith(("rigid_group", "group_")) or name == "bandwidth":
                found.lines.append((name, value))
            elif name in _TOP:
                found.top[name] = value
            else:
                defaults.put(name, value)
        elif owner.startswith("bad"):
            found.bad.setdefault(owner, {})[key] = value
        elif key == "clen":
            # As files for CrystFEL before 0.10 have it.
            if found.top.setdefault("clen", value) != value:
                raise FileFormatError(
                    f"the geometry {path} has panels of different camera length ({value!r} and "
                    f"{found.top['clen']!r}): give one 'clen', and 'coffset' for each panel."
                )
        else:
            found.panels.setdefault(owner, defaults.copy()).put(key, value)
    return found


def _given(text: GeometryText, panel: str, key: str) -> str:
    found = text.panels[panel].values.get(key)
    if found is None:
        raise FileFormatError(
            f"the geometry {text.path} has no value for {key!r} of panel {panel}."
        )
    return found


def number(text: GeometryText, panel: str, key: str, default: float | None = None) -> float:
    """Return a number that a panel has.

    Raises
    ------
    FileFormatError
        If it has none, or something else.
    """
    if default is not None and key not in text.panels[panel].values:
        return default
    found = _given(text, panel, key)
    try:
        value = float(found)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FileFormatError(
            f"{panel}/{key} in the geometry {text.path} must be a number, found {found!r}."
        )
    return value


def whole_number(text: GeometryText, panel: str, key: str) -> int:
    """Return a pixel number that a panel has; errors as of `number`."""
    value = number(text, panel, key)
    if value != int(value) or not 0 <= value < 1_000_000:
        raise FileFormatError(
            f"{panel}/{key} in the geometry {text.path} must be the number of a pixel, found "
            f"{value:g}."
        )
    return int(value)


def direction(text: GeometryText, panel: str, key: str) -> tuple[float, float, float]:
    """Return a vector that a panel has, written like ``+1.0x -0.5y``.

    Raises
    ------
    FileFormatError
        If it has none, or something else.
    """
    found = _given(text, panel, key)
    compact = re.sub(r"\s", "", found)
    terms = re.findall(r"([+-]?(?:\d+\.?\d*|\.\d+)?(?:[eE][+-]?\d+)?)([xyz])", compact)
    if not terms or "".join(a + b for a, b in terms) != compact:
        raise FileFormatError(
            f"{panel}/{key} in the geometry {text.path} can't be understood: expected a direction "
            f"like '+1.0x -0.5y', found {found!r}."
        )
    vector = dict.fromkeys("xyz", 0.0)
    for value, axis in terms:
        vector[axis] += float(value + "1" if value in ("", "+", "-") else value)
    if not all(map(math.isfinite, vector.values())):
        raise FileFormatError(
            f"{panel}/{key} in the geometry {text.path} must be finite, found {found!r}."
        )
    return vector["x"], vector["y"], vector["z"]
