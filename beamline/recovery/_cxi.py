"""The CXI files of one run, made again from its documents where they were cut off."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py

from beamline.crystallography.cxi import IN_PROGRESS
from beamline.crystallography.geometry import write_list
from beamline.documents.replay import replay
from beamline.recovery._leftovers import lost_with
from beamline.validation.repair import repair_file
from callbacks.cxi import CXIWriter

__all__ = ["CXIFiles", "cxi_files", "files_of"]

_RUN = "/entry_1/experiment_identifier"


class CXIFiles:
    """The CXI files of one run.

    Parameters
    ----------
    directory
        Where they are.
    complete, growing
        Those that are there, by number.
    taken
        Names of other runs.
    """

    def __init__(
        self, directory: Path, complete: list[Path], growing: list[Path], taken: set[str]
    ) -> None:
        self._directory = directory
        self._complete, self._growing, self._taken = complete, growing, taken

    @property
    def unfinished(self) -> bool:
        """Whether one was cut off."""
        return bool(self._growing)

    @property
    def paths(self) -> list[Path]:
        """All of them, those cut off last."""
        return [*self._complete, *self._growing]

    def complete(
        self,
        documents: Iterable[tuple[str, Mapping[str, Any]]],
        refused: Callable[[str], object],
    ) -> list[Path]:
        """Make them again, unless they are all complete; return those that were completed.

        Where frames are gone, so that files made again would have fewer events, those that were
        cut off are repaired instead.

        Raises
        ------
        StorageError
            If there is no space; what was there before is there still.
        """
        if self._complete and not self._growing and not _goes_on(self._complete[-1]):
            return []
        there = self._directory.exists()
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            return self._make(documents, refused)
        finally:
            if not there:
                with contextlib.suppress(OSError):  # it has files now
                    self._directory.rmdir()

    def _make(
        self,
        documents: Iterable[tuple[str, Mapping[str, Any]]],
        refused: Callable[[str], object],
    ) -> list[Path]:
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=".recover-") as folder:
            writer = CXIWriter(folder)
            replay(documents, [writer], refused=refused)
            writer.close()
            places = self._places(writer.files)
            lost = [
                problem
                for made, place in zip(writer.files, places, strict=True)
                for old in (place, _growing(place))
                if old.exists()
                for problem in lost_with(old, made)
            ]
            if lost or len(writer.files) < len(self.paths):
                refused(
                    "the CXI files were completed from what was in them, because they have what "
                    f"cannot be made again: {' '.join(lost[:3]) or 'frames that are gone.'}"
                )
                return [repair_file(path)[0] for path in self._growing]
            self._install(writer.files, places)
        return places

    def _places(self, made: list[Path]) -> list[Path]:
        """Return where each file belongs: where it was, or on a name that no other run has."""
        known = sorted({path.name.removesuffix(IN_PROGRESS) for path in self.paths})
        number = 0
        places: list[Path] = []
        for index, path in enumerate(made):
            stem = path.name.rpartition("_chunk")[0]
            name = known[index] if index < len(known) else ""
            while not name:
                number += 1
                candidate = f"{stem}_chunk{number:04d}.cxi"
                used = {place.name for place in places}
                name = "" if candidate in self._taken | used else candidate
            places.append(self._directory / name)
        return places

    def _install(self, made: list[Path], places: list[Path]) -> None:
        for path, place in zip(made, places, strict=True):
            path.replace(place)
        for old in self._growing:
            old.unlink(missing_ok=True)
        if not places:
            return
        first = places[0]
        stem, _, number = first.with_suffix("").name.rpartition("_chunk")
        beside = first.with_name(stem) if int(number) == 1 else first.with_suffix("")
        for geometry in made[0].parent.glob("*.geom"):
            shutil.move(geometry, beside.with_name(beside.name + ".geom"))
        write_list(beside.with_name(beside.name + ".lst"), places)


def files_of(directory: Path, start: Mapping[str, Any], prefix: str = "beamline") -> CXIFiles:
    """Find the CXI files of the run that begins with `start`."""
    try:
        moment = datetime.fromtimestamp(float(start["time"]), tz=UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return CXIFiles(directory, [], [], set())
    complete, growing, taken = [], [], set()
    for path in sorted(directory.glob(f"{prefix}_{moment:%Y%m%d_%H%M%S}_chunk*.cxi*")):
        if not path.name.endswith((".cxi", f".cxi{IN_PROGRESS}")):
            continue
        if _read(path, _RUN) != str(start["uid"]):
            taken.add(path.name.removesuffix(IN_PROGRESS))
        elif path.name.endswith(IN_PROGRESS):
            growing.append(path)
        else:
            complete.append(path)
    return CXIFiles(directory, complete, growing, taken)


def cxi_files(directory: Path, start: Mapping[str, Any]) -> list[Path]:
    """Return the CXI files of the run that begins with `start`, those cut off last."""
    return files_of(directory, start).paths


def _growing(path: Path) -> Path:
    return path.with_name(path.name + IN_PROGRESS)


def _goes_on(path: Path) -> bool:
    return _read(path, "/entry_1/exit_status") == "continued"


def _read(path: str | os.PathLike[str], name: str) -> str | None:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return str(file[name].asstr()[()])
    except (OSError, KeyError, RuntimeError, AttributeError):
        return None
