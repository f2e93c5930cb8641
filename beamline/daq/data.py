"""The result of a scan as arrays, and its files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError, FileFormatError
from beamline.nexus.scan import ScanType

__all__ = ["ScanData"]

_TIME = "timestamp"


@dataclass
class ScanData:
    """A scan: what moved, what was counted, when.

    Attributes
    ----------
    motor_positions
        Name → (N,) positions as read back, in the motor's unit.
    detector_readings
        Name → (N,) readings, or (N, …) for arrays.
    timestamps
        (N,) s since 1970.
    metadata
        Anything that JSON can hold; ``sample``, ``element``, ``edge``, ``ring_current``, … have
        places of their own in NeXus files.

    Raises
    ------
    ConfigurationError
        If the arrays differ in length.
    """

    motor_positions: dict[str, npt.NDArray[Any]]
    detector_readings: dict[str, npt.NDArray[Any]]
    timestamps: npt.NDArray[np.float64]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timestamps = np.asarray(self.timestamps, dtype=np.float64)
        for columns in (self.motor_positions, self.detector_readings):
            for name, values in columns.items():
                columns[name] = np.asarray(values)
                if columns[name].shape[:1] != self.timestamps.shape:
                    raise ConfigurationError(
                        f"all arrays of a scan must have one row per point, found "
                        f"{self.timestamps.size} time stamps and an array of shape "
                        f"{columns[name].shape} for {name!r}."
                    )

    def __len__(self) -> int:
        return int(self.timestamps.size)

    def to_nexus(
        self,
        path: str | os.PathLike[str],
        title: str | None = None,
        scan_type: ScanType = "linear",
    ) -> None:
        """Write a NeXus file, replacing one that is there; see `callbacks.nexus.NeXusWriter`.

        Parameters
        ----------
        path
            Its name.
        title
            Default: that of the metadata, or made from type and sample.
        scan_type
            "linear", "mesh" or "xafs".

        Raises
        ------
        ConfigurationError, StorageError
            If no scan can be made of the data, or the file can't be written.
        """
        from callbacks.nexus import NeXusWriter

        with NeXusWriter(path, mode="w") as writer:
            writer.write_scan(self, title=title, scan_type=scan_type)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table: a comment line of JSON, a line of names, a line per point.

        Numbers are written so that `from_csv` reads the same ones.

        Raises
        ------
        ConfigurationError
            If a detector gave arrays: a table has no place for them.
        """
        columns = {_TIME: self.timestamps, **self.motor_positions, **self.detector_readings}
        expected = 1 + len(self.motor_positions) + len(self.detector_readings)
        arrays = [name for name, values in columns.items() if values.ndim > 1]
        if arrays or len(columns) != expected:
            raise ConfigurationError(
                f"{arrays[0]!r} has an array per point, which a table cannot hold: use to_nexus."
                if arrays
                else f"two columns have the same name, or one is called {_TIME!r}: rename them."
            )
        head = {
            "motors": list(self.motor_positions),
            "dtypes": {name: values.dtype.str for name, values in columns.items()},
            "metadata": self.metadata,
        }
        with Path(path).open("w", newline="", encoding="utf-8") as stream:
            stream.write(f"# {json.dumps(head, default=_plain, ensure_ascii=False)}\n")
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(columns)
            table.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> ScanData:
        """Read what `to_csv` has written.

        Raises
        ------
        FileFormatError
            If the file is something else.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8") as stream:
                head = json.loads(stream.readline().removeprefix("#"))
                names, *rows = csv.reader(stream)
            dtypes, motors = head["dtypes"], head["motors"]
            lists = list(zip(*rows, strict=True)) if rows else [() for _ in names]
            columns = {
                name: _array(values, np.dtype(dtypes[name]))
                for name, values in zip(names, lists, strict=True)
            }
            times = columns.pop(_TIME)
            positions = {name: columns.pop(name) for name in motors}
            metadata = dict(head["metadata"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise FileFormatError(
                f"{path} is no table of a scan: expected a line of JSON behind '#', a line of "
                f"names that begins with {_TIME!r} and a line per point ({error})."
            ) from None
        return cls(positions, columns, times, metadata)


def _array(values: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind == "b":
        return np.array([value == "True" for value in values], dtype=dtype)
    return np.array(values, dtype=dtype)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
