"""NeXus trees in an HDF5 file: the only place of the NeXus writer that talks to h5py."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.disk import sync
from beamline.nexus.rows import converted
from beamline.nexus.tree import (
    Attribute,
    Column,
    ExternalLink,
    Field,
    Grid,
    GridAxis,
    Group,
    Link,
    Tree,
    Virtual,
)
from callbacks._ordered_file import OrderedFile
from callbacks._virtual import fill_value, virtual_layout

__all__ = ["ColumnData", "NexusFile", "set_attributes", "write_field"]

_log = logging.getLogger(__name__)
_TEXT = h5py.string_dtype()
#: HDF5 1.10 reads it, and no checksum makes a header unreadable that was half written at a kill.
_LIBVER = ("earliest", "v110")
_MOST_CHUNK_ROWS, _LEAST_CHUNK_ROWS = 1024, 64
_CHUNK_BYTES = 65536
#: Of decoded chunks, for each dataset: only the last one is written again. (HDF5 2 keeps 8 MB.)
_CACHE_BYTES = 2 * _CHUNK_BYTES

Array = npt.NDArray[Any]


@functools.lru_cache(maxsize=64)
def _memory_space(shape: tuple[int, ...]) -> Any:
    return h5py.h5s.create_simple(shape)


class ColumnData:
    """A column in the file.

    Attributes
    ----------
    path
        Where it stands.
    node
        What it is.
    rows
        Rows written.
    """

    def __init__(
        self, path: str, node: Column, dataset: Any, chunk_rows: int, *, compressed: bool
    ) -> None:
        self.path = path
        self.node = node
        self.rows = 0
        self._dataset = dataset
        self._simple = node.dtype is not None and node.shape is not None
        self._type = h5py.h5t.py_create(node.dtype) if self._simple else None
        self._space = h5py.h5s.create(h5py.h5s.SIMPLE)
        self._chunk_rows = chunk_rows
        self._tail: Array | None = None
        self._stored_tail = False
        if compressed:
            self._tail = np.zeros((chunk_rows, *(node.shape or ())), node.dtype)

    def append(self, first: int, rows: Array) -> bool:
        """Write rows from number `first` on, which is at or beyond the end.

        Returns
        -------
        bool
            Whether a chunk that is on disk already has been replaced: the file must be committed
            before anything else may take its place.
        """
        last = first + len(rows)
        if not self._simple:
            self._dataset.resize(last, axis=0)
            if self.node.shape is None:
                # One by one: h5py takes several arrays of equal length for one array.
                for number, row in enumerate(rows, start=first):
                    self._dataset[number] = row
            else:
                self._dataset[first:last] = rows
        elif self._tail is None:
            self._write(first, rows)
        else:
            self.rows = last
            return self._append_compressed(first, rows)
        self.rows = last
        return False

    def _write(self, first: int, rows: Array) -> None:
        # Three times as fast as h5py's slicing: types and spaces are made once.
        identifier, space = self._dataset.id, self._space
        extent = (first + len(rows), *rows.shape[1:])
        identifier.set_extent(extent)
        space.set_extent_simple(extent)
        space.select_hyperslab((first, *[0] * (rows.ndim - 1)), rows.shape)
        array = np.ascontiguousarray(rows, self.node.dtype)
        identifier.write(_memory_space(rows.shape), space, array, self._type)

    def _append_compressed(self, first: int, rows: Array) -> bool:
        """Write full chunks compressed, once; the last one plain, in place, until it is full."""
        tail, size = self._tail, self._chunk_rows
        assert tail is not None  # noqa: S101  (the caller has looked)
        replaced = False
        done = 0
        while done < len(rows):
            inside = (first + done) % size
            count = min(size - inside, len(rows) - done)
            if inside == 0:
                tail[:] = 0
                self._stored_tail = False
            tail[inside : inside + count] = rows[done : done + count]
            done += count
            begin = first + done - count - inside
            if inside + count == size:
                self._write(begin, tail)
                replaced = replaced or self._stored_tail
                self._stored_tail = False
            else:
                self._dataset.id.set_extent((begin + inside + count, *tail.shape[1:]))
                self._store_tail(begin, tail)
        return replaced

    def _store_tail(self, begin: int, tail: Array) -> None:
        offset = (begin, *[0] * (tail.ndim - 1))
        # 0xffffffff: no filter was applied to this chunk.
        self._dataset.id.write_direct_chunk(offset, tail.tobytes(), 0xFFFFFFFF)
        self._stored_tail = True

    def overwrite(self, row: int, values: Array) -> None:
        """Replace one row by another."""
        begin = self._tail_begin
        if self._tail is None or row < begin:
            self._dataset[row] = values[0]
        else:
            self._tail[row - begin] = values[0]
            self._store_tail(begin, self._tail)

    @property
    def _tail_begin(self) -> int:
        return self.rows - self.rows % self._chunk_rows

    def pad(self, rows: int) -> None:
        """Make the column as long as the others; what is missing is NaN, 0 or empty."""
        if self.rows < rows:
            self._dataset.resize(rows, axis=0)
            self.rows = rows

    def find_again(self, file: Any) -> None:
        """Take the data set from a file that was opened anew."""
        self._dataset = file[self.path]

    def read(self) -> Array:
        """Return all rows."""
        if self._tail is None or self.rows == self._tail_begin:
            rows: Array = self._dataset[()]
            return rows
        # HDF5 remembers of the last chunk that it is compressed, and fails to read it.
        full = self._dataset[: self._tail_begin]
        return np.concatenate([full, self._tail[: self.rows - self._tail_begin]])


class NexusFile:
    """A growing NeXus file, ``NAME.part`` until it is finished.

    Parameters
    ----------
    path
        Its final path.
    compression
        gzip level of numeric columns, or None.

    Raises
    ------
    OSError
        If it can't be made, or another process is writing it.
    """

    def __init__(self, path: Path, *, compression: int | None) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._compression = compression
        self._file: Any = self._open()
        self._links: dict[str, list[str]] = {}
        self._tasks: Mapping[type, Callable[[str, Any], None]] = {
            Group: self._add_group,
            Field: self._add_field,
            Link: self._add_link,
            ExternalLink: self._add_external_link,
            Grid: self._add_grid,
            GridAxis: self._add_grid_axis,
            Virtual: self._add_virtual,
        }

    def _open(self) -> Any:
        self._ordered = OrderedFile(self.part)
        return h5py.File(
            self._ordered, "w", libver=_LIBVER, rdcc_nbytes=_CACHE_BYTES, rdcc_nslots=101
        )

    def add(
        self, tree: Tree, expected_rows: Callable[[str], int | None] = lambda _: None
    ) -> list[ColumnData]:
        """Make all nodes of a tree.

        Parameters
        ----------
        expected_rows
            Of a stream, or None.

        Returns
        -------
        list[ColumnData]
            The columns among them.
        """
        columns = []
        for path, node in tree.items():
            if isinstance(node, Column):
                columns.append(self._add_column(path, node, expected_rows(node.stream)))
            else:
                self._tasks[type(node)](path, node)
        return columns

    def _add_group(self, path: str, node: Group) -> None:
        group = self._file.require_group(path)
        if node.nx_class:
            group.attrs["NX_class"] = node.nx_class
        set_attributes(group, node.attributes)

    def _add_field(self, path: str, node: Field) -> None:
        write_field(self._file, path, node)

    def _add_link(self, path: str, node: Link) -> None:
        target = self._file[node.target]
        self._file[path] = target
        if "target" not in target.attrs:
            target.attrs["target"] = node.target
        set_attributes(target, node.attributes)
        self._links.setdefault(str(target.attrs["target"]), []).append(path)

    def _add_external_link(self, path: str, node: ExternalLink) -> None:
        # Relative, so that the folder with both files can be moved. HDF5 looks from the folder of
        # this file. No @target: validators follow it into this file.
        self._file[path] = h5py.ExternalLink(self._relative(node.file), node.dataset)

    def _relative(self, file: str) -> str:
        return os.path.relpath(os.path.realpath(file), os.path.realpath(self.path.parent))

    def _add_virtual(self, path: str, node: Virtual) -> None:
        """Put a virtual data set in the place of links, if all of its sources are there."""
        try:
            layout, dtype = virtual_layout(node, self._relative)
        except (OSError, RuntimeError, KeyError, ValueError, AttributeError) as error:
            _log.warning(
                "%s: the frames of %s stay linked, no virtual data set can be made of them: %s.",
                self.path, path, " ".join(str(error).split()).rstrip("."),
            )  # fmt: skip
            return
        for place in (path, *node.places):
            parent, _, name = place.rpartition("/")
            if self._file[parent].get(name, getlink=True) is not None:
                del self._file[place]
        made = self._file.create_virtual_dataset(path, layout, fillvalue=fill_value(dtype))
        set_attributes(made, node.attributes)
        made.attrs["target"] = path
        for place in node.places:
            self._file[place] = made

    def _add_grid(self, path: str, node: Grid) -> None:
        shape = node.order.shape
        inner = max(1, min(_CHUNK_BYTES // 8, shape[-1]))
        outer = max(1, min(_CHUNK_BYTES // 8 // inner, shape[-2]))
        chunks = (*[1] * (len(shape) - 2), outer, inner)
        dataset = self._file.create_dataset(
            path, shape=shape, dtype=np.float64, chunks=chunks, fillvalue=np.nan
        )
        set_attributes(dataset, node.attributes)

    def _add_grid_axis(self, path: str, node: GridAxis) -> None:
        dataset = self._file.create_dataset(path, data=node.values)
        set_attributes(dataset, node.attributes)

    def _add_column(self, path: str, node: Column, expected: int | None) -> ColumnData:
        rows = min(max(expected or _MOST_CHUNK_ROWS, _LEAST_CHUNK_ROWS), _MOST_CHUNK_ROWS)
        options: dict[str, Any] = {}
        shape = node.shape or ()
        compressed = False
        if node.dtype is None:
            dtype: Any = _TEXT
        elif node.shape is None:
            dtype = h5py.vlen_dtype(node.dtype)
        else:
            dtype = node.dtype
            row_bytes = max(1, int(np.prod(shape)) * dtype.itemsize)
            rows = max(1, min(rows, _CHUNK_BYTES // row_bytes))
            if dtype.kind == "f":
                options["fillvalue"] = np.nan
            if self._compression is not None:
                compressed = True
                options |= {"compression": "gzip", "compression_opts": self._compression}
                options["shuffle"] = True
        dataset = self._file.create_dataset(
            path, shape=(0, *shape), maxshape=(None, *shape), chunks=(rows, *shape), dtype=dtype,
            **options,
        )  # fmt: skip
        set_attributes(dataset, node.attributes)
        return ColumnData(path, node, dataset, rows, compressed=compressed)

    def widen(self, column: ColumnData, node: Column, expected: int | None) -> ColumnData:
        """Replace a column by one of another kind, rows and links included."""
        rows = converted(column.read(), node.dtype, node.shape)
        attributes = dict(self._file[column.path].attrs)
        del self._file[column.path]
        made = self._add_column(column.path, node, expected)
        for name, value in attributes.items():
            self._file[column.path].attrs[name] = value
        for path in self._links.get(column.path, ()):
            del self._file[path]
            self._file[path] = self._file[column.path]
        if len(rows):
            made.append(0, rows)
        for path in (column.path, *self._links.get(column.path, ())):
            self._match_plot(path)
        return made

    def _match_plot(self, path: str) -> None:
        """Let a plot that has this dataset show numbers of one shape, and as many axes."""
        group, name = self._file[path].parent, path.rpartition("/")[2]
        if "signal" not in group.attrs:
            return
        signals = [group.attrs["signal"], *group.attrs.get("auxiliary_signals", ())]
        axes = list(group.attrs.get("axes", ()))
        if name not in (*signals, *axes):
            return
        # Rows of text, or of differing length, are objects.
        shown = [name for name in signals if group[name].dtype.kind in "iufb"]
        shown = [name for name in shown if group[name].shape[1:] == group[shown[0]].shape[1:]]
        if not shown:
            self._drop_plot(group)
            return
        group.attrs.create("signal", shown[0], dtype=_TEXT)
        if shown[1:]:
            group.attrs.create("auxiliary_signals", shown[1:], dtype=_TEXT)
        elif "auxiliary_signals" in group.attrs:
            del group.attrs["auxiliary_signals"]
        if name in axes and (group[name].dtype.kind not in "iufb" or group[name].ndim != 1):
            axes[axes.index(name)] = "."
        rank = group[shown[0]].ndim
        group.attrs.create("axes", [*axes, *["."] * rank][:rank], dtype=_TEXT)

    def _drop_plot(self, group: Any) -> None:
        """Make a plot that has nothing to show a collection of what is in it."""
        for name in list(group.attrs):
            if name in ("signal", "axes", "auxiliary_signals") or name.endswith("_indices"):
                del group.attrs[name]
        group.attrs["NX_class"] = "NXcollection"
        if group.parent.attrs.get("default") == group.name.rpartition("/")[2]:
            del group.parent.attrs["default"]

    def fill_grid(self, path: str, places: npt.NDArray[np.int64], values: Array) -> None:
        """Put values (N,) at flat places (N,) of a grid."""
        dataset = self._file[path]
        indices = np.unravel_index(places, dataset.shape)
        first, last = int(indices[0].min()), int(indices[0].max()) + 1
        slab = dataset[first:last]
        slab[(indices[0] - first, *indices[1:])] = values
        dataset[first:last] = slab

    def replace(self, path: str, values: Array) -> None:
        """Overwrite a dataset with values of the same shape."""
        self._file[path][...] = values

    def commit(self) -> None:
        """Bring everything to disk, where a reader and a later process find it.

        Raises
        ------
        OSError
            If there is no space; the file on disk is as it was, and this may be tried again.
        """
        self._file.flush()
        self._ordered.commit()

    def finish(self) -> None:
        """Close the file and give it its final name.

        Raises
        ------
        OSError
            If that is not possible; ``.part`` then holds what was committed before.
        """
        try:
            self._close()
        finally:
            self.abandon()
        self.part.replace(self.path)
        sync(self.path.parent)

    def _close(self) -> None:
        self._file.close()
        self._ordered.close()

    def abandon(self) -> None:
        """Let go of the file; ``.part`` holds what was committed."""
        with contextlib.suppress(Exception):
            self._file.close()
        self._let_go()

    def _let_go(self) -> None:
        self._ordered.abandon()


def write_field(file: Any, path: str, node: Field) -> None:
    """Write a field that is written once."""
    value = node.value
    is_text = isinstance(value, str | list)
    dataset = file.create_dataset(path, data=value, **({"dtype": _TEXT} if is_text else {}))
    set_attributes(dataset, node.attributes)


def set_attributes(node: Any, attributes: Mapping[str, Attribute]) -> None:
    """Set the attributes of a group or data set."""
    for name, value in attributes.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            node.attrs.create(name, value, dtype=_TEXT)
        else:
            node.attrs[name] = value
