"""Bins and geometry as programs of the APS store them: ``/qmap`` of a partition, ``/xpcs/qmap``.

q is in Å⁻¹ there, lengths are in m, the photon energy in keV, beam centres in pixels.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.nexus.tree import Field, Group, Node
from beamline.xpcs.geometry import convert_q
from beamline.xpcs.partitions import QPartition
from beamline.xpcs.schemas import Q_UNITS, SCHEMA_VERSION, GeometryMetadata

__all__ = ["partition_hash", "q_partition_tree"]

#: What the APS viewers print beside values, per unit of ours, and the same as NeXus unit.
_SHOWN = {"nm^-1": "Å⁻¹", "A^-1": "Å⁻¹", "deg": "°", "px": "pixel"}
_NEXUS = {"Å⁻¹": "1/angstrom", "°": "degree"}


def partition_hash(partition: QPartition) -> str:
    """Return a digest of bins, mask and geometry: equal for equal ones (SHA-256)."""
    digest = hashlib.sha256()
    for bins in (partition.dynamic, partition.static):
        for array in (bins.roi_map, bins.v_list_dim0, bins.v_list_dim1, bins.index_mapping):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(array.tobytes())
    digest.update(partition.mask.tobytes())
    geometry = None if partition.metadata is None else partition.metadata.to_dict()
    others = [partition.map_names, partition.map_units, geometry]
    digest.update(json.dumps(others, sort_keys=True).encode())
    return digest.hexdigest()


def q_partition_tree(
    partition: QPartition, group: str = "", *, source_file: str = ""
) -> dict[str, Node]:
    """Return the nodes of `group` with mask, bins and geometry.

    Parameters
    ----------
    source_file
        The file that the bins were made from.
    """
    shown = [_SHOWN.get(unit, unit) for unit in partition.map_units]
    attributes: dict[str, Any] = {"hash": partition_hash(partition), "version": SCHEMA_VERSION}
    tree: dict[str, Node] = {group or "/": Group("", attributes)}
    mask = partition.mask.astype(np.uint8)
    fields: dict[str, Field] = {
        "map_names": Field(list(partition.map_names)),
        "map_units": Field(shown),
        "mask": Field(mask),
        "blemish": Field(mask),
        "source_file": Field(source_file),
    }
    if partition.metadata is not None:
        fields |= _geometry(partition.metadata)
    for kind, bins in (("dynamic", partition.dynamic), ("static", partition.static)):
        fields[f"{kind}_roi_map"] = Field(bins.roi_map.astype(np.uint32), {"units": ""})
        for axis, values in enumerate((bins.v_list_dim0, bins.v_list_dim1)):
            unit = partition.map_units[axis]
            fields[f"{kind}_v_list_dim{axis}"] = Field(
                _shown_values(values, unit),
                {"units": _NEXUS.get(shown[axis], shown[axis]), "unit": shown[axis],
                 "name": partition.map_names[axis], "size": len(values)},
            )  # fmt: skip
        fields[f"{kind}_index_mapping"] = Field(bins.index_mapping.astype(np.int64))
        fields[f"{kind}_num_pts"] = Field(np.array(list(bins.num_pts), np.int64))
    return tree | {f"{group}/{name}": field for name, field in fields.items()}


def _geometry(metadata: GeometryMetadata) -> dict[str, Field]:
    return {
        "beam_center_x": Field(metadata.bcx, {"units": "pixel"}),
        "beam_center_y": Field(metadata.bcy, {"units": "pixel"}),
        "detector_distance": Field(1e-3 * metadata.det_dist, {"units": "m"}),
        "pixel_size": Field(1e-3 * metadata.pix_dim, {"units": "m"}),
        "energy": Field(metadata.energy, {"units": "keV"}),
    }


def _shown_values(values: npt.NDArray[np.float64], unit: str) -> npt.NDArray[np.float64]:
    return convert_q(values, unit, "A^-1") if unit in Q_UNITS else values
