"""Reader of XDI files, the field's format for one X-ray absorption spectrum.

The format: B. Ravel and M. Newville, J. Phys. Conf. Ser. 712 (2016) 012148, version 1.0. A header
of lines that begin with ``#``: the version, fields ``Namespace.tag: value``, ``///`` and comments,
a line of dashes and the column labels; then the columns, apart by white space.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from beamline.core.errors import FileFormatError, MissingError
from beamline.core.units import HC

__all__ = ["Spectrum", "read_xdi"]

Array = npt.NDArray[np.float64]

_MAX_BYTES = 64_000_000
_MIN_POINTS = 10
_SAME_ENERGY = 1e-3  # eV: points nearer than this are one point
_ENERGY_UNITS = {"ev": 1.0, "kev": 1000.0}


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A measured spectrum.

    Attributes
    ----------
    energy
        (n,) eV, strictly increasing.
    mu
        (n,) absorption with the offset it was measured with.
    element, edge
        "Cu", "K": from the header.
    header
        All fields by lower-case name ("sample.name").
    source
        How µ was made of the columns, e.g. "ln(i0/itrans)".
    merged
        Points that were merged with one at the same energy.
    """

    energy: Array
    mu: Array
    element: str
    edge: str
    header: dict[str, str]
    source: str
    merged: int


def read_xdi(path: str | os.PathLike[str]) -> Spectrum:
    """Read the spectrum of an XDI file.

    Absorption is taken from ``mutrans``, else ln(i0/itrans), ``normtrans``, ``mufluor``,
    ifluor/i0 or ``normfluor``: the first for which there are columns. Energies may be in eV or
    keV, or be angles of a monochromator whose spacing the header gives. They are sorted, and
    repeated ones are averaged.

    Raises
    ------
    MissingError
        If there is no such file.
    FileFormatError
        If it is no XDI file, or holds no spectrum.
    """
    path = Path(path)
    lines = _lines(path)
    header, labels, rows = _parse(path, lines)
    element = header.get("element.symbol", "").strip().capitalize()
    edge = header.get("element.edge", "").strip().upper()
    for name, value in (("Element.symbol", element), ("Element.edge", edge)):
        if not value:
            raise FileFormatError(
                f"{path} has no header field '{name}', without which its spectrum cannot be placed:"
                " add it to the file."
            )
    columns = _columns(path, header, labels, rows)
    numbers = [number for number, _ in rows]
    energy = _energies(path, header, columns, numbers)
    mu, source = _absorption(path, columns, numbers)
    energy, mu, merged = _sorted(energy, mu)
    if len(energy) < _MIN_POINTS:
        raise FileFormatError(
            f"{path} holds {len(energy)} different energies, expected at least {_MIN_POINTS}."
        )
    return Spectrum(energy, mu, element, edge, header, source, merged)


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FileFormatError(
                f"{path} is larger than {_MAX_BYTES // 1_000_000} MB: that is not one spectrum."
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"there is no XDI file {path}.") from None
    except OSError as error:
        raise FileFormatError(f"cannot read the XDI file {path}: {error.strerror}.") from None
    if not content.strip():
        raise FileFormatError(f"{path} is empty, expected an XDI file.")
    if b"\0" in content:
        raise FileFormatError(f"{path} is a binary file, expected an XDI file, which is text.")
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    if not re.match(r"#\s*XDI/\d", lines[0]):
        raise FileFormatError(
            f"{path} is not an XDI file: its first line must begin with '# XDI/1.0', found "
            f"{lines[0][:40]!r}."
        )
    return lines


def _parse(
    path: Path, lines: list[str]
) -> tuple[dict[str, str], list[str], list[tuple[int, list[str]]]]:
    """Split into header fields, the labels of the last header line, and numbered rows of words."""
    header: dict[str, str] = {}
    labels: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    comments = False
    for number, line in enumerate(lines[1:], 2):
        text = line.strip()
        if not text:
            continue
        if not text.startswith("#"):
            rows.append((number, text.replace(",", " ").split()))
            continue
        if rows:
            continue  # some programs leave remarks below the data
        text = text.lstrip("#").strip()
        labels = text.lower().split()
        if text.startswith("///"):
            comments = True
        elif re.fullmatch(r"-{3,}", text):
            comments = True  # what follows are labels
        elif not comments:
            key, colon, value = text.partition(":")
            if colon and "." in key:
                header[key.strip().lower()] = value.strip()
    if not rows:
        raise FileFormatError(f"{path} has a header but no data below it.")
    return header, labels, rows


def _columns(
    path: Path, header: dict[str, str], labels: list[str], rows: list[tuple[int, list[str]]]
) -> dict[str, Array]:
    names: dict[int, str] = {}
    for key, value in header.items():
        match = re.fullmatch(r"column\.([1-9][0-9]{0,3})", key)
        if match and value:
            names[int(match[1]) - 1] = value.lower().split()[0]
    width = len(rows[0][1])
    if not names and len(labels) == width:
        names = dict(enumerate(labels))
    values = np.empty((len(rows), width))
    for i, (number, words) in enumerate(rows):
        if len(words) != width:
            raise FileFormatError(
                f"line {number} of {path} has {len(words)} columns, expected {width} as above it."
            )
        for j, word in enumerate(words):
            try:
                values[i, j] = float(word)
            except ValueError:
                raise FileFormatError(
                    f"line {number} of {path} holds {word[:20]!r}, expected a number."
                ) from None
    # The first of two columns with one name counts.
    return {name: values[:, i] for i, name in sorted(names.items(), reverse=True) if i < width}


def _check(path: Path, lines: list[int], name: str, values: Array, least: float | None) -> None:
    wrong = ~np.isfinite(values)
    if least is not None:
        wrong |= ~(values > least)
    if wrong.any():
        i = int(np.argmax(wrong))
        expected = "a number" if least is None else f"a number above {least:g}"
        raise FileFormatError(
            f"line {lines[i]} of {path} has {name} = {values[i]:g}, expected {expected}."
        )


#: Name, columns and function for each way to µ, the preferred one first.
_RECIPES = (
    ("mutrans", ("mutrans",), lambda a: a),
    ("ln(i0/itrans)", ("i0", "itrans"), lambda a, b: np.log(a / b)),
    ("normtrans", ("normtrans",), lambda a: a),
    ("mufluor", ("mufluor",), lambda a: a),
    ("ifluor/i0", ("ifluor", "i0"), lambda a, b: a / b),
    ("normfluor", ("normfluor",), lambda a: a),
)


def _absorption(path: Path, columns: dict[str, Array], lines: list[int]) -> tuple[Array, str]:
    for source, needed, function in _RECIPES:
        if all(name in columns for name in needed):
            for name in needed:
                # Logarithms are taken of these, or they divide.
                _check(path, lines, name, columns[name], 0.0 if name in {"i0", "itrans"} else None)
            with np.errstate(all="ignore"):
                mu = np.asarray(function(*(columns[name] for name in needed)))
            _check(path, lines, source, mu, None)
            return mu, source
    raise FileFormatError(
        f"{path} has the columns {', '.join(sorted(columns)) or '(none named)'}, expected mutrans, "
        "or i0 with itrans, or mufluor, or i0 with ifluor: name them in 'Column.N' header fields."
    )


def _energies(
    path: Path, header: dict[str, str], columns: dict[str, Array], lines: list[int]
) -> Array:
    def units(name: str) -> str:
        for key, value in header.items():
            words = value.lower().split()
            if key.startswith("column.") and words and words[0] == name:
                return words[1] if len(words) > 1 else ""
        return ""

    if "energy" in columns:
        unit = units("energy") or "ev"
        if unit not in _ENERGY_UNITS:
            raise FileFormatError(f"{path} gives energies in {unit!r}, expected eV or keV.")
        _check(path, lines, "energy", columns["energy"], 0.0)
        energy = columns["energy"] * _ENERGY_UNITS[unit]
    elif "angle" in columns:
        try:
            spacing = float(header["mono.d_spacing"].split()[0])
        except (KeyError, ValueError, IndexError):
            spacing = math.nan
        unit = units("angle") or "degrees"
        factors = {"degrees": 1.0, "degree": 1.0, "deg": 1.0, "radians": 180.0 / math.pi}
        angle = np.radians(columns["angle"] * factors.get(unit, math.nan))
        if not spacing > 0.0 or not np.all((angle > 0.0) & (angle < math.pi / 2)):
            raise FileFormatError(
                f"{path} has angles instead of energies, expected them in degrees or radians "
                "between 0 and 90 degrees, and the spacing in angstrom in a field "
                "'Mono.d_spacing'."
            )
        energy = HC / (2.0 * spacing * np.sin(angle))
    else:
        raise FileFormatError(
            f"{path} has no energy column, found {', '.join(sorted(columns)) or 'no named columns'}"
            ": name it in a 'Column.N' header field."
        )
    return np.asarray(energy, dtype=np.float64)


def _sorted(energy: Array, mu: Array) -> tuple[Array, Array, int]:
    order = np.argsort(energy, kind="stable")
    energy, mu = energy[order], mu[order]
    group = np.concatenate([[0], np.cumsum(np.diff(energy) > _SAME_ENERGY)])
    count = np.bincount(group)
    merged_energy = np.bincount(group, energy) / count
    return merged_energy, np.bincount(group, mu) / count, len(energy) - len(count)
