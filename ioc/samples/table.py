"""Sample tables: the text files from which the device server knows its samples.

Header lines ``# key: value``, then rows of four numbers: energy (eV, increasing), and µt of the
whole sample, of its absorbing edge alone, and of the reference foil (dimensionless). A sample that
is not the same everywhere has a map beside the table, a PGM file that the header names.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError, FileFormatError
from ioc.samples.exafs import Shell
from ioc.samples.lattice import Reflection

__all__ = ["SampleTable", "SampleTruth", "read_table", "save_table"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SampleTruth:
    """What is true of a simulated sample.

    Attributes
    ----------
    name
        Name under which it is selected: ASCII without commas, at most 25 characters, which is what
        an EPICS enumeration can hold.
    formula, element, edge
        Composition, absorbing element and its edge.
    e0
        Maximum of dµ/dE, eV.
    edge_step
        Tabulated jump of µ at `e0` times the thickness.
    thickness_um
        Thickness, µm; of a measured spectrum that of a foil of the pure element.
    origin
        "built-in" or "measured".
    x_um, y_um
        Stage position that has the middle of the foil in the beam, µm.
    width_um, height_um
        Size of the foil, µm.
    lattice_a
        Edge of the crystal cell, Å; None if unknown.
    reflections
        Powder lines.
    shells
        Neighbours that make the fine structure; empty for a measured spectrum.
    notes
        Further header lines.
    """

    name: str
    formula: str
    element: str
    edge: str
    e0: float
    edge_step: float
    thickness_um: float
    origin: str
    x_um: float
    y_um: float
    width_um: float
    height_um: float
    lattice_a: float | None = None
    reflections: tuple[Reflection, ...] = ()
    shells: tuple[Shell, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SampleTable:
    """A sample's truth and its absorption: float64 arrays of one length, see the module.

    `thickness` is the map: uint16, rows along y and columns along x of the stage, its greatest
    value meaning full thickness; None for a sample that is the same everywhere.
    """

    truth: SampleTruth
    energy: Array
    total: Array
    fluorescence: Array
    reference: Array
    thickness: npt.NDArray[np.uint16] | None = None


#: Header key of each number of the truth.
_NUMBERS = {
    "e0_eV": "e0",
    "edge_step": "edge_step",
    "thickness_um": "thickness_um",
    "x_um": "x_um",
    "y_um": "y_um",
    "width_um": "width_um",
    "height_um": "height_um",
    "lattice_a_A": "lattice_a",
}
_TEXTS = ("name", "formula", "element", "edge", "origin")


def save_table(table: SampleTable, directory: Path) -> Path:
    """Write a table into `directory` (made if need be) and return its path.

    The file appears complete or not at all. A different table of the same name is kept, and the new
    one gets a number.

    Raises
    ------
    ConfigurationError
        If the directory cannot be written.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", table.truth.name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            files = _files(table, directory / (stem if number == 1 else f"{stem}-{number}"))
            taken = [path for path in files if path.exists()]
            if not taken:
                for path, text in files.items():
                    _write(path, text)
            if not taken or all(_holds(path, text) for path, text in files.items()):
                return list(files)[-1]
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the sample table of {table.truth.name!r} into {directory}: "
            f"{error.strerror or error}; choose a directory that can be written."
        ) from None
    raise AssertionError  # unreachable: some number is free


def _files(table: SampleTable, path: Path) -> dict[Path, str]:
    """Contents of a table's files, `path` being without suffix; the table itself is the last."""
    text = path.with_name(f"{path.name}.table")
    if table.thickness is None:
        return {text: _format(table, None)}
    image = path.with_name(f"{path.name}.pgm")
    return {image: _format_map(table.thickness), text: _format(table, image.name)}


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="ascii", errors="replace") == text


def _write(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".part", delete=False, encoding="ascii"
    ) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _format_map(thickness: npt.NDArray[np.uint16]) -> str:
    ny, nx = thickness.shape
    rows = "\n".join(" ".join(map(str, row)) for row in thickness.tolist())
    return f"P2\n{nx} {ny}\n{max(int(thickness.max()), 1)}\n{rows}\n"


def _read_map(path: Path) -> npt.NDArray[np.uint16]:
    try:
        kind, *words = path.read_text(encoding="ascii").split()
        nx, ny, full, *pixels = (int(word) for word in words)
        if kind != "P2" or not 1 <= full <= 65535 or not 0 <= min(pixels) <= max(pixels) <= full:
            raise ValueError("it is not a plain PGM file")
        return np.array(pixels, dtype=np.uint16).reshape(ny, nx)
    except (OSError, ValueError) as error:
        raise FileFormatError(f"the sample map {path} cannot be read: {error}.") from None


def _format(table: SampleTable, thickness_file: str | None) -> str:
    truth = table.truth
    lines = [f"# {key}: {_ascii(getattr(truth, key))}" for key in _TEXTS]
    for key, name in _NUMBERS.items():
        value = getattr(truth, name)
        if value is not None:
            lines.append(f"# {key}: {value:.10g}")
    if thickness_file is not None:
        lines.append(f"# map: {thickness_file}")
    lines += [f"# {key}: {_ascii(text)}" for key, text in truth.notes.items()]
    lines += [
        f"# shell: {s.element} {s.number:g} {s.distance:.6g} {s.sigma2:.6g}" for s in truth.shells
    ]
    lines += [
        f"# reflection: {r.h} {r.k} {r.l} {r.d:.6f} {r.intensity:.4f}" for r in truth.reflections
    ]
    lines.append("# energy_eV mut_total mut_fluor mut_reference")
    rows = np.column_stack([table.energy, table.total, table.fluorescence, table.reference])
    lines += [" ".join(f"{value:.10g}" for value in row) for row in rows.tolist()]
    return "\n".join(lines) + "\n"


def _ascii(text: str) -> str:
    return " ".join(text.encode("ascii", "replace").decode("ascii").split())


def read_table(path: str | os.PathLike[str]) -> SampleTable:
    """Read a sample table.

    Raises
    ------
    FileFormatError
        If it is not one.
    OSError
        If the file cannot be opened.
    """
    text = Path(path).read_text(encoding="ascii", errors="replace")
    header: dict[str, str] = {}
    shells: list[Shell] = []
    reflections: list[Reflection] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if not line.startswith("#"):
                rows.append([float(word) for word in line.split()])
                if len(rows[-1]) != 4:
                    raise ValueError("a row has four numbers")
                continue
            key, colon, value = line[1:].partition(":")
            words = value.split()
            if not colon:
                continue
            if key.strip() == "shell":
                shells.append(Shell(words[0], *map(float, words[1:4])))
            elif key.strip() == "reflection":
                h, k, l_ = (int(word) for word in words[:3])
                reflections.append(Reflection(h, k, l_, float(words[3]), float(words[4])))
            else:
                header[key.strip()] = value.strip()
        except (ValueError, IndexError, TypeError) as error:
            raise FileFormatError(f"line {number} of the sample table {path}: {error}.") from None
    thickness = _read_map(Path(path).parent / header.pop("map")) if "map" in header else None
    try:
        texts: dict[str, Any] = {key: header.pop(key) for key in _TEXTS}
        numbers: dict[str, Any] = {
            name: float(header.pop(key)) for key, name in _NUMBERS.items() if key in header
        }
        truth = SampleTruth(
            **texts,
            **numbers,
            shells=tuple(shells),
            reflections=tuple(reflections),
            notes=header,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"the header of the sample table {path}: {error}.") from None
    if len(rows) < 2:
        raise FileFormatError(f"the sample table {path} has no rows.")
    energy, total, fluorescence, reference = np.array(rows, dtype=np.float64).T
    return SampleTable(truth, energy, total, fluorescence, reference, thickness)
