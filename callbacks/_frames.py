"""Frames that documents refer to, read from their HDF5 file while it may still grow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError, MissingError

__all__ = ["FrameNotReadyError", "FrameSource", "MissingFrameError"]

_MIMETYPES = ("application/x-hdf5", "application/x-hdf5;type=swmr")
#: What area detectors of ophyd (ADCore's HDF5 plugin) put into `resource` documents.
_CLASSIC_SPECS = ("AD_HDF5", "AD_HDF5_SWMR", "AD_HDF5_GERM", "HDF5")
_CLASSIC_DATASET = "/entry/data/data"
_ATTRIBUTES = "/entry/instrument/NDAttributes"


class FrameNotReadyError(BeamlineError, LookupError):
    """A frame is not in its file yet."""


class MissingFrameError(MissingError):
    """A frame that a document refers to can't be read and will not come."""


class FrameSource:
    """The frames of one `stream_resource` (or classic `resource`) document.

    The file is opened for every access and closed again: a handle kept open would neither see new
    rows nor let another reader in this process see them.

    Parameters
    ----------
    path
        HDF5 file.
    dataset
        Path of the frames in it: (rows, ss, fs), or (datums, frames per datum, ss, fs).
    frames_per_datum
        Datum i is the rows from ``i * frames_per_datum`` on.
    """

    def __init__(self, path: Path, dataset: str, frames_per_datum: int = 1) -> None:
        self.path = path
        self.dataset = dataset
        self.frames_per_datum = frames_per_datum

    @classmethod
    def from_stream_resource(cls, doc: Mapping[str, Any], frames_per_datum: int = 1) -> FrameSource:
        """Make one from a `stream_resource` document.

        Raises
        ------
        MissingFrameError
            If it does not refer to a local HDF5 file.
        """
        uri = urlparse(doc["uri"])
        if doc["mimetype"].replace(" ", "") not in _MIMETYPES or uri.scheme != "file":
            raise MissingFrameError(
                f"frames of type {doc['mimetype']} at {doc['uri']} can't be read: expected an HDF5 "
                f"file (application/x-hdf5) at file://localhost/…"
            )
        parameters = doc["parameters"]
        dataset = parameters.get("dataset") or parameters.get("path") or _CLASSIC_DATASET
        return cls(Path(unquote(uri.path)), dataset, frames_per_datum)

    @classmethod
    def from_resource(cls, doc: Mapping[str, Any]) -> FrameSource:
        """Make one from a classic `resource` document.

        Raises
        ------
        MissingFrameError
            If it does not refer to an HDF5 file of an area detector.
        """
        if doc["spec"] not in _CLASSIC_SPECS:
            raise MissingFrameError(
                f"frames of a resource with spec {doc['spec']!r} can't be read: expected one of "
                f"{', '.join(_CLASSIC_SPECS)}."
            )
        kwargs = doc["resource_kwargs"]
        path = Path(doc.get("root") or "/") / doc["resource_path"].lstrip("/")
        dataset = kwargs.get("dataset") or _CLASSIC_DATASET
        return cls(path, dataset, int(kwargs.get("frame_per_point") or 1))

    def row(self, datum: int) -> int:
        """Return the row of the first frame of a datum."""
        return datum * self.frames_per_datum

    def read(self, datum: int) -> npt.NDArray[Any]:
        """Read the frames of a datum, (frames, ss, fs), in the file's own type.

        Raises
        ------
        FrameNotReadyError
            If they are not there yet.
        MissingFrameError
            If the file is complete without them, or holds no frames at all.
        """
        try:
            with self._open() as file:
                return self._read(file, datum)
        except (OSError, RuntimeError, KeyError) as error:
            # A file that is being written may be caught between two flushes.
            if isinstance(error, BeamlineError):
                raise
            reason = " ".join(str(error).split())
            raise FrameNotReadyError(
                f"datum {datum} of {self.dataset} in {self.path} can't be read: {reason}"
            ) from None

    def attribute(self, name: str, row: int) -> float | None:
        """Return what the detector stored with a frame under ``NDAttributes``, or None."""
        try:
            with self._open() as file:
                values = file.get(f"{_ATTRIBUTES}/{name}")
                if not isinstance(values, h5py.Dataset) or row >= values.shape[0]:
                    return None
                return float(values[row])
        except (OSError, RuntimeError, ValueError):
            return None

    def _open(self) -> Any:
        try:
            return h5py.File(self.path, "r", locking=False)
        except OSError as error:
            # Somebody in this process has it open with locks: HDF5 wants all to do the same.
            if "flag values don't match" not in str(error):
                raise
            return h5py.File(self.path, "r")

    def _read(self, file: Any, datum: int) -> npt.NDArray[Any]:
        complete = bool(file.attrs.get("complete", 0))
        kind = MissingFrameError if complete else FrameNotReadyError
        frames = file[self.dataset]
        if not isinstance(frames, h5py.Dataset) or frames.ndim not in (3, 4):
            raise MissingFrameError(
                f"{self.dataset} in {self.path} is no stack of frames (rows, ss, fs)."
            )
        first, number = (datum, 1) if frames.ndim == 4 else (self.row(datum), self.frames_per_datum)
        if first + number > frames.shape[0]:
            raise kind(
                f"frame {first + number - 1} is missing: {self.dataset} in {self.path} has "
                f"{frames.shape[0]} rows."
            )
        # A row that was never written reads as zeros: no frame at all must not pass for a dark one.
        if frames.chunks is not None and not frames.is_virtual:
            for row in range(first, first + number):
                chunk = (row // frames.chunks[0] * frames.chunks[0],) + (0,) * (frames.ndim - 1)
                if frames.id.get_chunk_info_by_coord(chunk).byte_offset is None:
                    raise kind(
                        f"frame {row} is missing: {self.dataset} in {self.path} has its row, but "
                        f"nothing in it."
                    )
        found: npt.NDArray[Any] = np.asarray(frames[first : first + number])
        return found.reshape(-1, *frames.shape[-2:])
