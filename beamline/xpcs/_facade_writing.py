"""Writes that happen as a whole or not at all.

A file is written beside its place, put on disk and renamed; who has the old one open keeps reading
it. To change a group of an existing file, the file is copied first; one that is too large for that
is changed in place, where the group gets its name once it is complete and on disk.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.core.disk import sync
from beamline.core.errors import StorageError
from beamline.nexus.tree import Field, Group, Link, Node
from beamline.xpcs._facade_source import HDF5ValidationError
from beamline.xpcs.adapters import HDF5Adapter, get_backend

__all__ = ["Compression", "replace_file", "replace_group"]

#: A filter of HDF5 (``gzip``, ``lzf``; None for none) and its option.
Compression = tuple[str | None, int | None]
#: Filters that the viewers of the field have.
_FILTERS = ("gzip", "lzf", None)
#: Arrays that are smaller are not worth a filter, bytes.
_SMALL = 4096
#: Appended to names of files and groups that are not complete.
_PART = ".part"
#: Bytes of a chunk, about.
_CHUNK = 1 << 20
_TEXT = h5py.string_dtype()
#: HDF5 1.10 reads it.
_LIBVER = ("earliest", "v110")

_adapter = HDF5Adapter(get_backend("numpy"))
#: A file always gets the same one; two files may share one.
_locks = [threading.Lock() for _ in range(64)]


def replace_file(
    path: str | os.PathLike[str], tree: Mapping[str, Node], compression: Compression
) -> None:
    """Write a file that consists of `tree`, in the place of any that is there.

    Raises
    ------
    StorageError
        If it can't be written; what was there before is still there.
    """
    _check_filter(path, compression)
    target = _target(path)
    with _exclusive(target), _reported(target), _beside(target) as part:
        with h5py.File(part, "x", libver=_LIBVER) as file:
            _write_tree(file, "/", tree, compression)
            file.flush()
        _onto_disk(part, target)


def replace_group(
    path: str | os.PathLike[str],
    group: str,
    tree: Mapping[str, Node],
    compression: Compression,
    *,
    in_place_above: int,
    unused: Callable[[], bool],
) -> None:
    """Write `tree` (paths within the group) as `group` of a file, which is made if need be.

    Parameters
    ----------
    in_place_above
        Size of file, bytes, from which on it is changed in place.
    unused
        Whether nobody here reads the file; it is copied otherwise.

    Raises
    ------
    StorageError, HDF5ValidationError
        If it can't be written, or the file is no HDF5; what was there before is still there.
    """
    _check_filter(path, compression)
    if not group.strip("/"):
        raise StorageError(f"{path}: the root can't be replaced as a group; name one below it.")
    target = _target(path)
    with _exclusive(target), _reported(target):
        exists = target.exists()
        if exists and target.stat().st_size > in_place_above and unused():
            with _existing(target) as file:
                _write_group(file, group, tree, compression)
                file.flush()
            sync(target)
            return
        with _beside(target) as part:
            if exists:
                shutil.copyfile(target, part)
                shutil.copymode(target, part)
                with _existing(part, target) as file:
                    _write_group(file, group, tree, compression)
            else:
                with h5py.File(part, "x", libver=_LIBVER) as file:
                    _write_group(file, group, tree, compression)
            _onto_disk(part, target)


def _check_filter(path: str | os.PathLike[str], compression: Compression) -> None:
    if compression[0] not in _FILTERS:
        raise StorageError(
            f"{path}: expected the compression gzip, lzf or None, which every viewer reads, found "
            f"{compression[0]!r}."
        )


@contextlib.contextmanager
def _existing(path: Path, called: Path | None = None) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r+", locking=False, libver=_LIBVER)
    except OSError as error:
        raise HDF5ValidationError(
            f"{called or path}: it can't be opened as HDF5 to write into it ({error})."
        ) from error
    with file:
        yield file


@contextlib.contextmanager
def _reported(target: Path) -> Iterator[None]:
    try:
        yield
    except HDF5ValidationError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise StorageError(f"{target}: it can't be written ({error}).") from error


@contextlib.contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Let one thread at a time write a file: each starts from what the other left."""
    with _locks[hash(target) % len(_locks)]:
        yield


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Offer a name in the folder of `target`; what is left under it is removed."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PART}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _target(path: str | os.PathLike[str]) -> Path:
    # A symbolic link stays one; the file that it leads to is replaced.
    return Path(path).resolve()


def _onto_disk(part: Path, target: Path) -> None:
    sync(part)
    part.replace(target)
    sync(target.parent)


def _write_group(
    file: h5py.File, group: str, tree: Mapping[str, Node], compression: Compression
) -> None:
    """Write a group under another name, then give it its name."""
    name = f"/{group.strip('/')}"
    incomplete = f"{name}{_PART}"
    if incomplete in file:
        del file[incomplete]
    file.require_group(incomplete)
    _write_tree(file, incomplete, tree, compression)
    file.flush()
    if name in file:
        del file[name]
    file.move(incomplete, name)


def _write_tree(
    file: h5py.File, root: str, tree: Mapping[str, Node], compression: Compression
) -> None:
    for path, node in tree.items():
        name = _within(root, path)
        if isinstance(node, Group):
            made = file.require_group(name)
            if node.nx_class:
                made.attrs["NX_class"] = node.nx_class
        elif isinstance(node, Link):
            made = file[name] = file[_within(root, node.target)]
            made.attrs["target"] = _within(root, node.target)
        elif isinstance(node, Field):
            made = _write_dataset(file, name, node.value, compression)
        else:
            raise TypeError(f"no {type(node).__name__} can be written, as {path} is")
        for key, value in node.attributes.items():
            if _is_texts(value):
                made.attrs.create(key, value, dtype=_TEXT)
            else:
                made.attrs[key] = value


def _within(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path.strip('/')}".rstrip("/") or "/"


def _write_dataset(
    file: h5py.File, name: str, value: Any, compression: Compression
) -> h5py.Dataset:
    if isinstance(value, str) or _is_texts(value):
        return file.create_dataset(name, data=value, dtype=_TEXT)
    array = _adapter.to_hdf5(value)
    kind, option = compression
    if kind is None or array.nbytes < _SMALL or not array.ndim:
        return file.create_dataset(name, data=array)
    return file.create_dataset(
        name,
        data=array,
        chunks=_chunks(array),
        shuffle=True,
        compression=kind,
        compression_opts=option if kind == "gzip" else None,
    )


def _chunks(array: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Return chunks of one image each, or of so many whole rows as make about a megabyte."""
    if array.ndim >= 3:
        return (*(1,) * (array.ndim - 2), *array.shape[-2:])
    row = max(1, array.nbytes // array.shape[0])
    return (min(array.shape[0], max(1, _CHUNK // row)), *array.shape[1:])


def _is_texts(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, str) for item in value)
    )
