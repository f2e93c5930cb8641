"""Make one NeXus file of each kind, for the default plots: ``python files.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from nexus_documents import (  # the documents that the validators are tested with
    detector_configuration,
    feed,
    line_run,
    mesh_run,
    powder_run,
    stills_run,
    xafs_run,
)

from callbacks.nexus import NeXusWriter


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.nxs"):
        old.unlink()
    frames = folder / "frames.h5"
    with h5py.File(frames, "w") as file:
        x, y = np.meshgrid(np.arange(12) - 5.5, np.arange(8) - 3.5)
        mean = 100 * np.exp(-(x**2 + y**2) / 10)
        file["/entry/data/data"] = np.random.default_rng(1).poisson(mean, (6, 8, 12)).astype("<u2")
        file["/entry/data/data"].attrs["units"] = "counts"
    kinds = {
        "xafs": xafs_run(),
        "fluorescence": xafs_run(mode="fluorescence"),
        "line": line_run(),
        "mesh": mesh_run(),
        "powder": powder_run(),
        "stills": stills_run(frames),
        "saxs": stills_run(frames, configuration=detector_configuration()),
    }
    for kind, documents in kinds.items():
        writer = NeXusWriter(folder)
        feed(writer, documents)
        writer.files[0].rename(folder / f"{kind}.nxs")


if __name__ == "__main__":
    main()
