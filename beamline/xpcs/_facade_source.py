"""Reads from an open HDF5 file that say, when they fail, which file and which path are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from beamline.core.errors import FileFormatError
from beamline.xpcs._checks import SchemaValidationError

__all__ = ["HDF5ValidationError", "MissingFileError", "Source", "join"]

#: A read takes at most so many bytes at a time: HDF5 lets one thread in, and others wait for it.
_PIECE = 4 << 20
#: A dataset that says it is larger is damaged, or to be read in parts, bytes.
_LARGEST = 8 << 30
#: What h5py raises for damaged content.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)

#: What units are called in files, and how many of ours they are: mm, keV, Å, deg.
_MILLIMETRES = {"m": 1e3, "mm": 1.0, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3}
_KEV = {"keV": 1.0, "kev": 1.0, "eV": 1e-3, "ev": 1e-3, "J": 1.0 / 1.602176634e-16}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
SCALES = {"length": _MILLIMETRES, "energy": _KEV, "time": _SECONDS}


class HDF5ValidationError(SchemaValidationError, FileFormatError):
    """A file is no HDF5, lacks something, or holds something that its layout does not allow."""


class MissingFileError(HDF5ValidationError, FileNotFoundError):
    """There is no such file."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def join(group: str, name: str) -> str:
    """Return the path of `name` within `group`."""
    return f"/{group.strip('/')}/{name}".replace("//", "/")


class Source:
    """An open file, for reading.

    Parameters
    ----------
    file
        It.
    name
        What it is called in messages.
    """

    def __init__(self, file: h5py.Group, name: str) -> None:
        self._file = file
        self.name = name

    def fail(self, path: str, problem: object) -> HDF5ValidationError:
        """Return the error that says what is wrong with `path`."""
        return HDF5ValidationError(f"{self.name}, {path}: {problem}")

    def missing(self, path: str, *others: str) -> HDF5ValidationError:
        """Return the error that says that neither `path` nor `others` is there."""
        also = f", nor {', '.join(others)}" if others else ""
        return self.fail(path, f"there is no such dataset or group in this file{also}.")

    def has(self, *paths: str) -> bool:
        """Whether all of `paths` are there (a dangling link is not)."""
        return all(self._find(path) is not None for path in paths)

    def first(self, *paths: str) -> str | None:
        """Return the first of `paths` that is there."""
        return next((path for path in paths if self.has(path)), None)

    def names(self, group: str) -> list[str]:
        """Return the names within `group`, none if there is no such group."""
        found = self._find(group)
        try:
            return sorted(found) if isinstance(found, h5py.Group) else []
        except _DAMAGE as error:
            raise self.fail(group, f"it can't be listed ({error}).") from error

    def is_dataset(self, path: str) -> bool:
        """Whether `path` is a dataset."""
        return isinstance(self._find(path), h5py.Dataset)

    def attribute(self, path: str, name: str) -> Any:
        """Return an attribute, text as str; None if it or its object is not there."""
        return self.attributes(path, name).get(name)

    def attributes(self, path: str, *wanted: str) -> dict[str, Any]:
        """Return the attributes of `path`, or the `wanted` ones that are there."""
        found = self._find(path)
        if found is None:
            return {}
        try:
            names = [name for name in wanted or found.attrs if name in found.attrs]
            return {name: _decoded(found.attrs[name]) for name in names}
        except _DAMAGE as error:
            raise self.fail(path, f"its attributes can't be read ({error}).") from error

    def array(self, path: str, index: Any = None) -> npt.NDArray[Any]:
        """Return the dataset at `path`, or the part of it that `index` selects."""
        dataset = self._dataset(path)
        try:
            if index is None and dataset.nbytes > _LARGEST:
                raise ValueError(f"{dataset.nbytes >> 20} MiB are too much at once")
            if index is not None:
                part: npt.NDArray[Any] = dataset[index]
                return part
            return _in_pieces(dataset)
        except _DAMAGE as error:
            raise self.fail(path, f"it can't be read ({error}).") from error

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of a dataset."""
        shape: tuple[int, ...] | None = self._dataset(path).shape
        return shape or ()

    def vector(self, path: str) -> npt.NDArray[np.float64]:
        """Return numbers as 1-D float64; (1, n) and (n, 1), as older programs write, are taken."""
        values = self.array(path)
        if values.dtype.kind not in "buif" or values.size != max(values.shape, default=1):
            raise self.fail(
                path, f"expected a list of numbers, found {values.dtype} of shape {values.shape}."
            )
        return values.reshape(-1).astype(np.float64)

    def number(self, path: str) -> float:
        """Return one number; an array of one element is taken."""
        values = self.array(path)
        if values.dtype.kind not in "buif" or values.size != 1:
            raise self.fail(
                path, f"expected one number, found {values.dtype} of shape {values.shape}."
            )
        return float(values.reshape(-1)[0])

    def quantity(self, path: str, kind: str, unit: str) -> float:
        """Return a number in mm, keV or s (`kind`: length, energy, time).

        Parameters
        ----------
        unit
            What it is in if the dataset does not say.
        """
        given = self.attribute(path, "units") or self.attribute(path, "unit") or unit
        scales = SCALES[kind]
        if given not in scales:
            raise self.fail(
                path, f"expected units of {kind}, one of {', '.join(scales)}, found {given!r}."
            )
        return self.number(path) * scales[given]

    def text(self, path: str) -> str:
        """Return text."""
        value = _decoded(self.array(path).reshape(-1).tolist())
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            return value[0]
        raise self.fail(path, f"expected text, found {value!r}.")

    def texts(self, path: str) -> list[str]:
        """Return a list of text."""
        return [str(item) for item in _decoded(self.array(path).reshape(-1).tolist())]

    def tree(self, group: str) -> dict[str, Any]:
        """Return all that is in a group: attributes, datasets and groups by name."""
        if not isinstance(self._find(group), h5py.Group):
            raise self.missing(group)
        found: dict[str, Any] = dict(self.attributes(group))
        for name in self.names(group):
            path = join(group, name)
            if not self.is_dataset(path):
                found[name] = self.tree(path)
                continue
            value = self.array(path)
            found[name] = value if value.ndim and value.dtype.kind != "O" else _plain(value)
        return found

    def datasets(self) -> Iterator[str]:
        """Yield the paths of all datasets, those that links lead to included, each once."""
        seen: set[Any] = set()
        groups = ["/"]
        while groups:
            group = groups.pop()
            for name in self.names(group):
                path = join(group, name)
                try:
                    found = self._find(path)
                except HDF5ValidationError:
                    continue  # what is damaged can't be chosen
                if found is None or found.id in seen:
                    continue
                seen.add(found.id)
                if isinstance(found, h5py.Group):
                    groups.append(path)
                elif isinstance(found, h5py.Dataset):
                    yield path

    def _dataset(self, path: str) -> h5py.Dataset:
        found = self._find(path)
        if found is None:
            raise self.missing(path)
        if not isinstance(found, h5py.Dataset):
            raise self.fail(path, "expected a dataset, found a group.")
        return found

    def _find(self, path: str) -> Any:
        try:
            return self._file.get(path)
        except _DAMAGE as error:
            # A damaged object raises where one that is not there gives None.
            raise self.fail(path, f"it can't be opened ({error}).") from error


def _in_pieces(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """Read a dataset in blocks of whole chunks of its first axis."""
    if not dataset.shape or dataset.nbytes <= _PIECE or dataset.dtype.hasobject:
        return _as_array(dataset[()])
    row = dataset.nbytes // dataset.shape[0]
    unit = dataset.chunks[0] if dataset.chunks else 1
    step = max(1, _PIECE // max(1, row) // unit) * unit
    values = np.empty(dataset.shape, dataset.dtype)
    for begin in range(0, dataset.shape[0], step):
        part = np.s_[begin : begin + step]
        dataset.read_direct(values, part, part)
    return values


def _as_array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, h5py.Empty):
        return np.empty(0, value.dtype)
    return value if isinstance(value, np.ndarray) else np.array([value]).reshape(())


def _plain(value: npt.NDArray[Any]) -> Any:
    return _decoded(value.tolist())


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
