"""Data keys of a descriptor: what one row of each is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["DataKey", "data_keys", "hinted_fields"]

_SCALARS: dict[str, np.dtype[Any] | None] = {
    "number": np.dtype(np.float64),
    "integer": np.dtype(np.int64),
    "boolean": np.dtype(np.bool_),
    "string": None,
}


@dataclass(frozen=True, slots=True)
class DataKey:
    """One data key.

    Attributes
    ----------
    name
        As in the documents.
    dtype, shape
        As in `beamline.nexus.tree.Column`.
    units
        As the device states them; None where it states none.
    source
        Where the value comes from, for example ``PV:BL02:MONO:ENERGY.RBV``.
    device
        Name of the object that it belongs to.
    external
        How its values are referred to where they are outside of the events.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None
    units: str | None
    source: str
    device: str
    external: Literal["", "stream", "datum"]

    @property
    def is_scalar(self) -> bool:
        """Whether each row is one number."""
        return self.shape == () and self.is_numeric and not self.external

    @property
    def is_numeric(self) -> bool:
        """Whether each row is one number or an array of numbers."""
        return self.dtype is not None and self.dtype.kind in "iuf"

    @property
    def frame_rank(self) -> int:
        """Number of axes of the frames in the file they are in, the first counting frames."""
        rank = len(self.shape or ())
        # (frames per event, rows, columns) are stacked along the first axis.
        return rank if rank > 2 else rank + 1


def data_keys(descriptor: Mapping[str, Any], motors: Collection[str] = ()) -> dict[str, DataKey]:
    """Read the data keys of a descriptor.

    Parameters
    ----------
    motors
        Names of the devices that the run moves. A data key of that name belongs to the motor, also
        where a flyer gives it.
    """
    device_of = {
        key: device
        for device, keys in (descriptor.get("object_keys") or {}).items()
        for key in keys
    }
    device_of.update({name: name for name in motors if name in descriptor["data_keys"]})
    return {
        name: _data_key(name, described, device_of.get(name, described.get("object_name", name)))
        for name, described in descriptor["data_keys"].items()
    }


def configuration_key(name: str, described: Mapping[str, Any], device: str) -> DataKey:
    """Read one data key of a device's configuration."""
    return _data_key(name, described, device)


def hinted_fields(descriptor: Mapping[str, Any], devices: list[str]) -> list[str]:
    """List the data keys that the devices want plotted: first those of `devices`, in that order."""
    hints = descriptor.get("hints")
    if not isinstance(hints, Mapping):
        return []
    ordered = [name for name in devices if name in hints]
    ordered += [name for name in hints if name not in ordered]
    given = [hints[name].get("fields") for name in ordered if isinstance(hints[name], Mapping)]
    lists = [fields for fields in given if isinstance(fields, list | tuple)]
    return list(dict.fromkeys(f for fields in lists for f in fields if isinstance(f, str)))


def _data_key(name: str, described: Mapping[str, Any], device: str) -> DataKey:
    kind = described.get("dtype", "number")
    external = str(described.get("external") or "")
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None
    if kind in _SCALARS:
        dtype, shape = _SCALARS[kind], ()
    else:
        dtype, shape = _array_dtype(described), _array_shape(described.get("shape"))
        if dtype is None and shape is None:
            shape = ()
    units = described.get("units")
    return DataKey(
        name=name,
        dtype=dtype,
        shape=shape,
        units=None if units is None else str(units),
        source=str(described.get("source", "")),
        device=str(device),
        external="stream" if external.startswith("STREAM:") else "datum" if external else "",
    )


def _array_dtype(described: Mapping[str, Any]) -> np.dtype[Any] | None:
    declared = described.get("dtype_numpy") or described.get("dtype_str") or "<f8"
    try:
        dtype = np.dtype(declared)
    except (TypeError, ValueError):
        return None
    return dtype.newbyteorder("<") if dtype.kind in "iufb" else None


def _array_shape(declared: Any) -> tuple[int, ...] | None:
    try:
        shape = tuple(int(n) for n in declared)
    except (TypeError, ValueError):
        return None
    return shape if shape and all(n > 0 for n in shape) else None
