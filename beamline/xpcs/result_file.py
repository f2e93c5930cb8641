"""Trees of `beamline.xpcs.result` in HDF5 files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamline.core.errors import StorageError
from beamline.nexus.tree import Attribute, Field, Group, Link, Tree

__all__ = ["write_tree"]

_TEXT = h5py.string_dtype()
#: HDF5 1.10 reads it.
_LIBVER = ("earliest", "v110")
#: Smaller arrays are not compressed (bytes).
_LEAST = 4096


def write_tree(path: Path, tree: Tree) -> Path:
    """Write a file: ``NAME.part`` first, which then takes the place of `path`.

    Arrays are compressed with gzip, which every HDF5 program reads.

    Raises
    ------
    StorageError
        If it can't be written; an older file of that name is left as it was.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "w", libver=_LIBVER) as file:
            for where, node in tree.items():
                _add(file, where, node)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        reason = error.strerror or " ".join(str(error).split())
        raise StorageError(f"the result file {path} can't be written: {reason}.") from None
    return path


def _add(file: Any, where: str, node: Any) -> None:
    if isinstance(node, Group):
        made = file.require_group(where)
        if node.nx_class:
            made.attrs["NX_class"] = node.nx_class
    elif isinstance(node, Link):
        made = file[where] = file[node.target]
        made.attrs["target"] = node.target
    elif isinstance(node, Field):
        value = node.value
        if isinstance(value, str | list):
            made = file.create_dataset(where, data=value, dtype=_TEXT)
        else:
            array = np.asarray(value)
            large = array.ndim > 0 and array.nbytes > _LEAST
            made = file.create_dataset(
                where, data=array, **({"compression": "gzip", "shuffle": True} if large else {})
            )
    else:
        raise TypeError(f"a result has no {type(node).__name__}, found one at {where}")
    _set_attributes(made, node.attributes)


def _set_attributes(node: Any, attributes: Any) -> None:
    name: str
    value: Attribute
    for name, value in attributes.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            node.attrs.create(name, value, dtype=_TEXT)
        else:
            node.attrs[name] = value
