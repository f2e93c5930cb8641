"""A growing NeXus file in HDF5's SWMR mode: readers follow it through a handle that stays open.

HDF5 allows nothing new in that mode, no group, data set or attribute. So the file leaves it for
whatever a descriptor, a resource or the stop document adds, and enters it again at the next commit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from beamline.core.disk import sync
from beamline.nexus.tree import Column, Tree
from callbacks._hdf5 import ColumnData, NexusFile

__all__ = ["SwmrNexusFile"]


class SwmrNexusFile(NexusFile):
    """As `NexusFile`, in SWMR mode between documents that add something.

    What it costs: the file is written by HDF5 directly, so that neither a kill nor a full disk is
    provided for. A killed one has to be cleared (``h5clear -s``) before it opens; readers with
    HDF5 older than 1.10 and CrystFEL can't open it while it grows.
    """

    def __init__(self, path: Path) -> None:
        self._columns: list[ColumnData] = []
        super().__init__(path, compression=None)

    def _open(self) -> Any:
        return h5py.File(self.part, "w", libver="latest")

    def add(
        self, tree: Tree, expected_rows: Callable[[str], int | None] = lambda _: None
    ) -> list[ColumnData]:
        """Make all nodes of a tree."""
        self._leave()
        made = super().add(tree, expected_rows)
        self._columns += made
        return made

    def widen(self, column: ColumnData, node: Column, expected: int | None) -> ColumnData:
        """Replace a column by one of another kind, rows and links included."""
        self._leave()
        made = super().widen(column, node, expected)
        self._columns[self._columns.index(column)] = made
        return made

    def commit(self) -> None:
        """Bring everything to disk and let readers in."""
        try:
            self._file.flush()
            if self._columns and not self._file.swmr_mode:
                self._file.swmr_mode = True
        except (RuntimeError, ValueError) as error:
            raise OSError(str(error)) from error

    def _leave(self) -> None:
        if not self._file.swmr_mode:
            return
        self._file.close()
        # Readers that follow hold locks, which do not concern them here.
        self._file = h5py.File(self.part, "r+", libver="latest", locking=False)
        for column in self._columns:
            column.find_again(self._file)

    def _close(self) -> None:
        self._file.close()
        sync(self.part)

    def _let_go(self) -> None:
        """Nothing but the file itself is held."""
