"""Frames of the catalogue whose files list photons (NXevent_data), made dense on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import h5py
import numpy as np

from beamline.core.errors import FileFormatError, MissingError

__all__ = ["PhotonFrames"]


class PhotonFrames:
    """Counts per pixel of one data key, by the number of the event.

    Parameters
    ----------
    resource
        The stream resource; its ``dataset`` is the ``event_index`` of an NXevent_data group, beside
        which are ``event_id``, the flat index of the pixel of each photon.
    events
        How many events refer to it.
    shape
        Of what an event has, pixels last.
    dtype
        Of the counts.
    """

    def __init__(
        self, resource: Mapping[str, Any], events: int, shape: Sequence[Any], dtype: str
    ) -> None:
        self._path = Path(unquote(urlsplit(str(resource["uri"])).path))
        self._index = str(resource["parameters"]["dataset"])
        self._photons = str(resource["parameters"]["event_id"])
        self._events = events
        self._shape = tuple(int(size) for size in shape)
        self._dtype = np.dtype(dtype)
        self._first: Any = None

    def get(self, seq_num: int) -> Any:
        """Return the frame, or the stack of frames, of one event; None if there is none.

        Raises
        ------
        MissingError
            If the file is not there: it may be on the server only.
        FileFormatError
            If it does not hold the photons.
        """
        if not 1 <= seq_num <= self._events:
            return None
        try:
            with h5py.File(self._path, "r", locking=False) as file:
                return self._read(file, seq_num)
        except FileNotFoundError:
            raise MissingError(
                f"the photons of these frames are in {self._path}, which is not on this machine: "
                "read them there, or without fill."
            ) from None
        except (OSError, KeyError, ValueError, IndexError) as error:
            said = " ".join(str(error).split())
            raise FileFormatError(
                f"{self._path} does not hold the photons of event {seq_num}: {said}."
            ) from None

    def _read(self, file: Any, seq_num: int) -> Any:
        photons = file[self._photons]
        if self._first is None:
            first = np.asarray(file[self._index]).astype(np.int64)
            self._first = np.append(first, photons.shape[0])
        each = (len(self._first) - 1) // self._events
        pixels = int(np.prod(self._shape)) // each
        frames = [
            np.bincount(photons[self._first[row] : self._first[row + 1]], minlength=pixels)
            for row in range((seq_num - 1) * each, seq_num * each)
        ]
        return np.stack(frames).astype(self._dtype).reshape(self._shape)
