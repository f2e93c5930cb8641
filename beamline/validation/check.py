"""Which kind of file it is, and the checks of that kind."""

from __future__ import annotations

from pathlib import Path

import h5py

from beamline.core.errors import BeamlineError
from beamline.documents._records import MAGIC, SUFFIX
from beamline.validation.findings import Report
from beamline.validation.frames import ATTRIBUTES, check_frames
from beamline.validation.journal import check_journal
from beamline.validation.nexus import BothValidators, check_nexus
from beamline.validation.superblock import flags, read_superblock

__all__ = ["check_file", "kind_of"]


def kind_of(path: Path) -> str:
    """Return "journal", "CXI", "frames", "NeXus", or "unknown" for what can't be opened.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) == MAGIC or path.name.endswith(SUFFIX):
            return "journal"
    if ".cxi" in path.suffixes[-2:]:
        return "CXI"
    try:
        with h5py.File(path, "r", locking=False) as file:
            if "cxi_version" in file:
                return "CXI"
            return "frames" if ATTRIBUTES in file and "complete" in file.attrs else "NeXus"
    except (OSError, RuntimeError):
        return "unknown"


def check_file(path: Path, validators: BothValidators | None = None) -> Report:
    """Check one file: NeXus, CXI, frames or journal, as `kind_of` says.

    Parameters
    ----------
    path
        The file.
    validators
        Of NeXus files, for several files; otherwise they are started for this one.
    """
    try:
        kind = kind_of(path)
        if kind == "journal":
            return check_journal(path)
        if kind == "unknown":
            return _unreadable(path)
        if kind == "CXI":
            from beamline.crystallography.cxi_check import check_cxi

            report = Report(kind)
            report.add(check_cxi(path), "layout and values that indexing programs rely on")
            return report
        if kind == "frames":
            return check_frames(path)
        return check_nexus(path, validators)
    except BeamlineError as error:
        return Report("unreadable", [(False, str(error))])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        return Report("unreadable", [(False, f"the file can't be read to its end: {said}.")])


def _unreadable(path: Path) -> Report:
    report = Report("HDF5")
    block = read_superblock(path)
    if flags(path):
        report.lines.append(
            (False, "its writer was killed: it is marked as open for writing, --repair clears it.")
        )
    elif path.stat().st_size < block.end:
        report.lines.append(
            (False, f"it is cut off: {path.stat().st_size} of {block.end} bytes are there.")
        )
    else:
        report.lines.append((False, "HDF5 cannot open it: it is damaged."))
    return report
