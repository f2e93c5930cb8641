"""Tables of HDF5 that are written row by row, a chunk each, past HDF5's filters where that pays.

``gzip`` is ordinary HDF5 gzip after byte shuffling, which every reader knows, but compressed by
ISA-L, several times faster than zlib.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["COMPRESSIONS", "ChunkTable", "Compression"]

Compression = Literal["none", "gzip", "bitshuffle"]
COMPRESSIONS: tuple[str, ...] = get_args(Compression)

_LEVEL = 1


class ChunkTable:
    """A growing dataset (rows, …) of one chunk per row.

    Parameters
    ----------
    file
        Open `h5py.File`.
    name
        Of the dataset; it is created, without rows.
    shape
        Of a row.
    dtype
        Native.
    compression
        ``bitshuffle`` (with LZ4) needs hdf5plugin, here and in every reader.
    """

    def __init__(
        self,
        file: Any,
        name: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        compression: Compression,
    ) -> None:
        filters: dict[str, Any] = {}
        if compression == "gzip":
            filters = {"compression": "gzip", "compression_opts": _LEVEL, "shuffle": True}
        elif compression == "bitshuffle":
            import hdf5plugin

            filters = dict(hdf5plugin.Bitshuffle())
        self._dataset = file.create_dataset(
            name,
            shape=(0, *shape),
            maxshape=(None, *shape),
            chunks=(1, *shape),
            dtype=dtype,
            **filters,
        )
        self._compression = compression
        self._dtype = np.dtype(dtype)
        self._shape = shape
        size = math.prod(shape) if compression == "gzip" else 0
        self._planes = np.empty((self._dtype.itemsize, size), np.uint8)

    @property
    def stored(self) -> int:
        """Number of rows that are in the file's index."""
        return int(self._dataset.id.get_num_chunks())

    def resize(self, rows: int) -> None:
        """Make room."""
        self._dataset.resize(rows, axis=0)

    def write(self, row: int, values: npt.NDArray[Any]) -> None:
        """Write a row, in place of one that is there.

        Raises
        ------
        ValueError
            If shape or type is another.
        OSError
            If HDF5 can't write.
        """
        if values.shape != self._shape or values.dtype != self._dtype:
            raise ValueError(
                f"a row of {self._dataset.name} must be {self._dtype} {self._shape}, found "
                f"{values.dtype} {values.shape}."
            )
        if self._compression == "bitshuffle":
            self._dataset[row] = values
            return
        content: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if self._compression == "gzip":
            from isal import isal_zlib

            # The first bytes of all elements, then the second ones, …: what HDF5 calls shuffle.
            np.copyto(self._planes, content.reshape(-1, self._dtype.itemsize).T)
            content = isal_zlib.compress(self._planes, _LEVEL)
        offsets = (row, *(0 for _ in self._shape))
        self._dataset.id.write_direct_chunk(offsets, content)
