"""XPCS data by what they are, for programs that need not know of files and their layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.xpcs.hdf5_facade import FilePath, HDF5Facade
from beamline.xpcs.schemas import G2Data, QMapSchema

__all__ = ["XPCSRepository"]


class XPCSRepository:
    """Access to results; errors are those of the facade.

    Parameters
    ----------
    facade
        What reads and writes the files; by default one of its own.
    """

    def __init__(self, facade: HDF5Facade | None = None) -> None:
        self.facade = HDF5Facade() if facade is None else facade

    def get_qmap(self, path: FilePath) -> QMapSchema:
        """Return the maps of q and azimuth."""
        return self.facade.read_qmap(path)

    def get_g2_data(self, path: FilePath, q_idx: int | None = None) -> G2Data:
        """Return g2 of all bins, or of one."""
        return self.facade.read_g2_data(path, q_idx)

    def get_twotime_data(
        self, path: FilePath, key: str | int | None = None, slice_spec: Any = None
    ) -> npt.NDArray[np.float64]:
        """Return a two-time correlation function, or the part of it that `slice_spec` selects."""
        return self.facade.read_twotime(path, key, slice_spec)

    def save_fit_result(self, path: FilePath, result: Any) -> None:
        """Store what was fitted to the data of a file in it."""
        self.facade.save_fit_result(path, result)
