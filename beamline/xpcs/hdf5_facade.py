"""The one door to XPCS files: everything that is read or written is validated here.

Reads take our own layout, results of the APS in NeXus and in the older layout, files of SimpleMask,
and files that say nothing of version or units (1/nm and rad are taken then). Files stay open for
the next read, and what was decoded is kept; both are bounded, and a file that was replaced or
changed is noticed. Writes happen as a whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.nexus.tree import Field, Group, Node
from beamline.xpcs import _facade_maps as maps
from beamline.xpcs import _facade_results as results
from beamline.xpcs._facade_pool import ConnectionPool, open_once
from beamline.xpcs._facade_source import HDF5ValidationError, MissingFileError, Source
from beamline.xpcs._facade_writing import Compression, replace_file, replace_group
from beamline.xpcs.aps_layout import q_partition_tree
from beamline.xpcs.partitions import Kind, QPartition
from beamline.xpcs.schemas import (
    SCHEMA_VERSION,
    G2Data,
    GeometryMetadata,
    MaskSchema,
    PartitionSchema,
    QMapSchema,
)

__all__ = ["ConnectionPool", "FilePath", "HDF5Facade", "HDF5ValidationError", "MissingFileError"]

FilePath = str | os.PathLike[str]
Array = npt.NDArray[Any]

_COMPRESSION: Compression = ("gzip", 4)
_GEOMETRY_UNITS = {
    "bcx": "pixel",
    "bcy": "pixel",
    "det_dist": "mm",
    "lambda_": "angstrom",
    "pix_dim": "mm",
    "det_rotation": "deg",
    "incident_angle": "deg",
}


class HDF5Facade:
    """Reads and writes XPCS files; one object may be used by many threads.

    What is read is shared between all readers, so its arrays are read-only. Every read raises
    `HDF5ValidationError` (`MissingFileError` if there is no file), which names file and path; every
    write `StorageError`, and leaves the file as it was. Two processes must not write the same file
    at once: each change is whole, but the later one may undo the other.

    Parameters
    ----------
    pool
        Open files and decoded values; by default one of its own.
    in_place_above
        Files larger than this, bytes, are not copied to change a group in them.
    """

    def __init__(
        self, pool: ConnectionPool | None = None, *, in_place_above: int = 256 << 20
    ) -> None:
        self.pool = ConnectionPool() if pool is None else pool
        self._in_place_above = in_place_above

    def read_qmap(self, path: FilePath, group: str = "/xpcs/qmap") -> QMapSchema:
        """Return the maps of q and azimuth.

        Of layouts that store bins, ``sqmap`` and ``dqmap`` are the q of each pixel's static and
        dynamic bin (0 where masked) and ``partition_map`` the dynamic labels.
        """
        return self.pool.read(path, ("qmap", group), lambda file: maps.load_qmap(file, group))

    def read_g2_data(
        self, path: FilePath, q_idx: int | None = None, group: str = "/xpcs/g2"
    ) -> G2Data:
        """Return g2 of all bins, or of bin `q_idx` (from 0) only; q is in 1/nm, delays in s."""
        found = self.pool.read(path, ("g2", group), lambda file: results.load_g2(file, group))
        if q_idx is None:
            return found
        number = len(found.q_values)
        if not 0 <= q_idx < number:
            raise HDF5ValidationError(
                f"{path}, {group}: there is no bin {q_idx}; there are {number}, counted from 0."
            )
        one = slice(q_idx, q_idx + 1)
        return G2Data(found.g2[one], found.g2_err[one], found.delay_times, found.q_values[one])

    def read_geometry_metadata(
        self, path: FilePath, group: str = "/xpcs/metadata"
    ) -> GeometryMetadata:
        """Return where the detector stood; lengths in files are converted to mm."""
        return self.pool.read(
            path, ("geometry", group), lambda file: maps.load_geometry(file, group)
        )

    def read_mask(self, path: FilePath, group: str = "/simplemask/mask") -> MaskSchema:
        """Return the mask: of our own layout, SimpleMask's (at the root) or a result's."""
        return self.pool.read(path, ("mask", group), lambda file: maps.load_mask(file, group))

    def read_partition(
        self, path: FilePath, group: str = "/simplemask/partition", *, kind: Kind = "dynamic"
    ) -> PartitionSchema:
        """Return bins as a list; of a layout that has both, the dynamic or the static ones."""
        return self.pool.read(
            path, ("partition", group, kind), lambda file: maps.load_partition(file, group, kind)
        )

    def read_q_partition(self, path: FilePath, group: str = "/qmap") -> QPartition:
        """Return static and dynamic bins, of a partition file or a result.

        Of bins that are a list (`write_partition`), each is a dynamic bin with one static bin.
        """
        return self.pool.read(
            path, ("bins", group), lambda file: maps.load_q_partition(file, group)
        )

    def read_twotime(
        self, path: FilePath, key: str | int | None = None, slice_spec: Any = None
    ) -> npt.NDArray[np.float64]:
        """Return a two-time correlation function (n, n), symmetric.

        Parameters
        ----------
        key
            Its name (``c2_00001``), path or bin; by default the first.
        slice_spec
            A slice, or a tuple of slices and indices, of what is wanted.
        """
        found = self.pool.read(path, ("twotime", key), lambda file: results.load_twotime(file, key))
        if slice_spec is None:
            return found
        try:
            part: npt.NDArray[np.float64] = found[slice_spec]
        except (IndexError, TypeError) as error:
            raise HDF5ValidationError(
                f"{path}, {key}: the part {slice_spec!r} of a two-time correlation function of"
                f" shape {found.shape} can't be taken ({error})."
            ) from error
        return part

    def list_twotime(self, path: FilePath) -> list[str]:
        """Return the paths of all two-time correlation functions of a file."""
        return list(self.pool.read(path, ("twotimes",), _twotime_paths))

    def read_fit_result(self, path: FilePath, group: str = "/xpcs/fit") -> dict[str, Any]:
        """Return what `save_fit_result` stored, nested as it was."""
        with self.pool.connection(path) as file:
            return Source(file, str(path)).tree(group)

    def read_dataset(self, path: FilePath, dataset: str, index: Any = None) -> npt.NDArray[Any]:
        """Return a dataset, or the part of it that `index` selects; links are followed."""
        with open_once(path) as source:
            return source.array(dataset, index)

    def shapes(self, path: FilePath) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all datasets of a file by their paths."""
        with open_once(path) as source:
            return {name: source.shape(name) for name in source.datasets()}

    def write_mask(
        self,
        path: FilePath,
        schema: MaskSchema,
        group: str = "/simplemask/mask",
        compression: str | None = "gzip",
        compression_opts: int | None = 4,
    ) -> None:
        """Write a mask as `group` of a file, which is made if it is not there."""
        tree = _group({"version": schema.version, "description": schema.description})
        tree["mask"] = Field(schema.mask)
        tree |= _metadata(schema.metadata)
        self._replace(path, group, tree, (compression, compression_opts))

    def write_partition(
        self,
        path: FilePath,
        schema: PartitionSchema,
        group: str = "/simplemask/partition",
        compression: str | None = "gzip",
        compression_opts: int | None = 4,
    ) -> None:
        """Write bins as `group` of a file, which is made if it is not there."""
        tree = _group(
            {"version": schema.version, "num_pts": schema.num_pts, "method": schema.method}
        )
        tree["partition_map"] = Field(schema.partition_map)
        tree["val_list"] = Field(np.array(list(schema.val_list)))
        tree["num_list"] = Field(np.array(list(schema.num_list), np.int64))
        if schema.mask is not None:
            tree["mask"] = Field(schema.mask)
        tree |= _metadata(schema.metadata)
        self._replace(path, group, tree, (compression, compression_opts))

    def write_q_partition(
        self, path: FilePath, partition: QPartition, group: str = "/qmap"
    ) -> None:
        """Write static and dynamic bins as SimpleMask does, which APS programs read."""
        self._replace(path, group, q_partition_tree(partition), _COMPRESSION)

    def write_qmap(self, path: FilePath, schema: QMapSchema, group: str = "/xpcs/qmap") -> None:
        """Write maps of q and azimuth as `group` of a file."""
        tree = _group({"version": SCHEMA_VERSION})
        for name, unit in (
            ("sqmap", schema.sqmap_unit),
            ("dqmap", schema.dqmap_unit),
            ("phis", schema.phis_unit),
        ):
            tree[name] = Field(getattr(schema, name), {"units": unit})
            tree[f"{name}_unit"] = Field(unit)
        for name in ("mask", "partition_map"):
            if getattr(schema, name) is not None:
                tree[name] = Field(getattr(schema, name))
        self._replace(path, group, tree, _COMPRESSION)

    def write_g2_data(self, path: FilePath, data: G2Data, group: str = "/xpcs/g2") -> None:
        """Write g2 as `group` of a file; q is in 1/nm."""
        tree = _group({"version": SCHEMA_VERSION})
        tree["g2"] = Field(data.g2)
        tree["g2_err"] = Field(data.g2_err)
        tree["delay_times"] = Field(data.delay_times, {"units": "s"})
        tree["q_values"] = Field(np.array(list(data.q_values)), {"units": "1/nm"})
        self._replace(path, group, tree, _COMPRESSION)

    def write_geometry_metadata(
        self, path: FilePath, metadata: GeometryMetadata, group: str = "/xpcs/metadata"
    ) -> None:
        """Write where the detector stood as `group` of a file."""
        tree = {"/": Group(""), **_geometry(metadata, "")}
        self._replace(path, group, tree, _COMPRESSION)

    def save_fit_result(self, path: FilePath, result: Any, group: str = "/xpcs/fit") -> None:
        """Write what was fitted as `group` of a file.

        Parameters
        ----------
        result
            A mapping (or dataclass) of names to numbers, text, arrays, and further mappings. None
            is left out.
        """
        if is_dataclass(result) and not isinstance(result, type):
            result = asdict(result)
        if not isinstance(result, Mapping):
            raise HDF5ValidationError(
                f"{path}, {group}: expected a mapping or a dataclass as result of a fit, found a"
                f" {type(result).__name__}."
            )
        tree: dict[str, Node] = {"/": Group("")}
        _add(tree, "", result)
        self._replace(path, group, tree, _COMPRESSION)

    def write_result(
        self,
        path: FilePath,
        tree: Mapping[str, Node],
        *,
        compression: str | None = "gzip",
        compression_opts: int | None = 4,
    ) -> Path:
        """Write a file that consists of `tree` (groups, fields, links of `beamline.nexus.tree`).

        A file that is there is replaced once the new one is complete and on disk.

        Returns
        -------
        Path
            Of the file.
        """
        replace_file(path, tree, (compression, compression_opts))
        self.pool.forget(path)
        return Path(path)

    def get_pool_stats(self) -> dict[str, float]:
        """Return counts of hits, misses, connections and memory (`ConnectionPool.stats`)."""
        return self.pool.stats()

    def clear_pool(self) -> None:
        """Close all files and forget what was read."""
        self.pool.clear()

    def _replace(
        self, path: FilePath, group: str, tree: Mapping[str, Node], compression: Compression
    ) -> None:
        replace_group(
            path,
            group,
            tree,
            compression,
            in_place_above=self._in_place_above,
            unused=lambda: self.pool.forget(path),
        )
        self.pool.forget(path)


def _twotime_paths(source: Source) -> tuple[str, ...]:
    return tuple(results.list_twotime(source))


def _group(attributes: Mapping[str, Any]) -> dict[str, Node]:
    return {"/": Group("", {key: value for key, value in attributes.items() if value != ""})}


def _metadata(metadata: GeometryMetadata | None) -> dict[str, Node]:
    if metadata is None:
        return {}
    return {"metadata": Group(""), **_geometry(metadata, "metadata/")}


def _geometry(metadata: GeometryMetadata, place: str) -> dict[str, Node]:
    tree: dict[str, Node] = {
        f"{place}{name}": Field(getattr(metadata, name), {"units": unit})
        for name, unit in _GEOMETRY_UNITS.items()
        if getattr(metadata, name) is not None
    }
    tree[f"{place}shape"] = Field(np.array(list(metadata.shape), np.int64))
    return tree


def _add(tree: dict[str, Node], place: str, values: Mapping[Any, Any]) -> None:
    for key, value in values.items():
        path = f"{place}/{str(key).replace('/', '_')}"
        if isinstance(value, Mapping):
            tree[path] = Group("")
            _add(tree, path, value)
        elif value is not None:
            tree[path] = Field(value)
