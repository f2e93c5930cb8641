"""Samples of the simulated beamline: built-in foils and measured spectra, made into tables.

The device server loads the tables; everything that is true of a sample stands in their headers.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from beamline.core.errors import MissingError
from ioc.samples.table import SampleTable, SampleTruth, read_table, save_table

__all__ = [
    "SampleTable",
    "SampleTruth",
    "builtin_names",
    "make_table",
    "read_table",
    "write_table",
]


def builtin_names() -> tuple[str, ...]:
    """Names of the built-in samples."""
    from ioc.samples.builtin import BUILTIN

    return tuple(BUILTIN)


def make_table(sample: str | Path, *, thickness_um: float | None = None) -> SampleTable:
    """Make the table of a built-in sample or of a measured spectrum; see `write_table`."""
    from ioc.samples.builtin import BUILTIN, builtin_table
    from ioc.samples.measured import measured_table

    if isinstance(sample, str) and sample in BUILTIN:
        return builtin_table(sample, thickness_um)
    path = Path(sample)
    try:
        found = path.exists()
    except OSError:  # no file can have such a name
        found = False
    if not found:
        near = difflib.get_close_matches(str(sample), BUILTIN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"built in are {', '.join(BUILTIN)}."
        raise MissingError(
            f"there is no sample {str(sample)!r}, neither built in nor an XDI file of that path: "
            f"{hint}"
        )
    return measured_table(path, thickness_um)


def write_table(sample: str | Path, directory: Path, *, thickness_um: float | None = None) -> Path:
    """Write the table of a sample into `directory` and return its path.

    Parameters
    ----------
    sample
        A built-in name (see `builtin_names`) or the path of an XDI file.
    directory
        Made if need be.
    thickness_um
        Thickness, µm. By default a built-in foil has its own, and a measured one that for which
        the tabulated jump is as high as the measured one.

    Raises
    ------
    MissingError
        If there is neither a built-in sample nor a file of that name.
    FileFormatError
        If the file holds no spectrum that can be used.
    ConfigurationError
        If the thickness is wrong or the directory cannot be written.
    """
    return save_table(make_table(sample, thickness_um=thickness_um), Path(directory))
