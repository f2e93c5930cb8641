"""CXI files from documents: the frames of a run, their peaks, and a geometry for CrystFEL.

.. mermaid::

    flowchart LR
        documents --> router[PerRunRouter] --> run["one writer per run"]
        file["HDF5 file of the detector"] -- frames --> run
        run -- image --> finder[peak finder] -- peaks --> run
        run --> cxi["….cxi, ….geom, ….lst"]

The work is done in the thread that brings the documents: some 15 ms for a frame of 512 × 512. A
frame that is not in its file yet delays nobody: it is tried again with the next document.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.crystallography.cxi_layout import COMPRESSIONS, Compression
from beamline.crystallography.geometry import Detector
from beamline.crystallography.peaks import PeakFinder
from beamline.documents.consumers import Consumer
from beamline.documents.router import PerRunRouter
from callbacks._cxi_run import COUNTS, CXIRun, CXISettings, Finder

__all__ = ["COUNTS", "CXIWriter", "Finder"]


class CXIWriter:
    """Document consumer that writes the frames of every run, with their peaks, to CXI files.

    A run without images gives no file, nor do sparse frames (lists of photons) and runs whose
    start document says ``technique: XPCS``. Images are arrays
    of rank 2 or 3 that lie outside of the events, or in them if `image_key` names them or their
    geometry is known. Files are named ``{prefix}_{YYYYMMDD}_{HHMMSS}_chunk{NNNN}.cxi`` after the
    start of the run (UTC), so that a replay gives the same names; a ``.geom`` and a ``.lst`` for
    CrystFEL lie beside them.

    An event that can't be stored (no frame, another shape, no photon energy, no geometry) is
    counted and listed in the file, and the next good one is written. The log has each reason once
    a run, and at the stop document how many events it befell.

    A file that can't be completed (full disk) keeps its ``.inprogress``; the stop document then
    raises, and the message says how many events are missing and how to make the file again.

    Parameters
    ----------
    directory
        Made if it is missing.
    finder
        Finds the peaks; by default `PeakFinder`.
    geometry
        The detector, instead of what the descriptor's configuration says. If it has several panels,
        frames may be slabs (ss, fs) or stacks (panels, ss, fs), and peaks are looked for on each
        panel by itself.
    valid
        Good pixels, bool (ss, fs) of the slab; all by default.
    prefix
        Begins the names of the files.
    events_per_file
        After so many events a further file is begun.
    min_num_peak
        Frames with fewer peaks are not written ("not a hit").
    max_num_peak
        Of more peaks only the strongest are stored.
    image_key
        Data key of the frames; by default the first image of a stream, external ones first.
    energy_key
        Data key of the photon energy. Where an event lacks it, these are asked in turn:
        ``photon_energy`` of the event, the frame's own ``PhotonEnergy`` (NDAttributes), the first
        reading in another stream (baseline), the detector's configuration.
    position_keys
        Data keys of the sample position x, y, z, in events or another stream (baseline).
    compression
        Of the frames: "none", "gzip" or "bitshuffle".
    frame_timeout
        Seconds after its event that a frame may take to appear in its file.

    Attributes
    ----------
    files : list[Path]
        Finished CXI files.
    statistics : Counter[str]
        Totals over all runs, keys as in `COUNTS`.
    errors : deque[BeamlineError]
        The last events that were not stored (at most 1,000), and why.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        finder: Finder | None = None,
        geometry: Detector | None = None,
        valid: npt.NDArray[np.bool_] | None = None,
        prefix: str = "beamline",
        events_per_file: int = 1000,
        min_num_peak: int = 0,
        max_num_peak: int = 1024,
        image_key: str | None = None,
        energy_key: str = "mono_energy",
        position_keys: tuple[str, str, str] = ("sample_x", "sample_y", "sample_z"),
        compression: Compression = "none",
        frame_timeout: float = 10.0,
    ) -> None:
        if events_per_file < 1 or max_num_peak < 1 or min_num_peak < 0:
            raise ConfigurationError(
                f"events_per_file and max_num_peak must be at least 1 and min_num_peak at least 0, "
                f"found {events_per_file}, {max_num_peak} and {min_num_peak}."
            )
        if not prefix or Path(prefix).name != prefix:
            raise ConfigurationError(f"the prefix must be part of a file name, found {prefix!r}.")
        if compression not in COMPRESSIONS:
            raise ConfigurationError(
                f"compression must be one of {', '.join(COMPRESSIONS)}, found {compression!r}."
            )
        self.settings = CXISettings(
            directory=Path(directory),
            finder=PeakFinder() if finder is None else finder,
            geometry=geometry,
            valid=valid,
            prefix=prefix,
            events_per_file=events_per_file,
            min_num_peak=min_num_peak,
            max_num_peak=max_num_peak,
            image_key=image_key,
            energy_key=energy_key,
            position_keys=position_keys,
            compression=compression,
            frame_timeout=frame_timeout,
        )
        self.files: list[Path] = []
        self.statistics: collections.Counter[str] = collections.Counter(dict.fromkeys(COUNTS, 0))
        self.errors: collections.deque[BeamlineError] = collections.deque(maxlen=1000)
        self._runs: dict[str, CXIRun] = {}
        self._router = PerRunRouter([self._new_run])

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document.

        Raises
        ------
        ConsumerError
            If a file can't be written or its name is taken.
        """
        try:
            self._router(name, doc)
        finally:
            if name == "stop":
                self._runs.pop(doc["run_start"], None)

    def close(self) -> None:
        """Bring what came of runs that have not stopped to disk; the log says what is missing."""
        for run in self._runs.values():
            run.abandon()
        self._runs.clear()
        self._router = PerRunRouter([self._new_run])

    def _new_run(self, start: Mapping[str, Any]) -> Iterable[Consumer]:
        # Speckle has no peaks, and a series is far too long to look for any.
        if start.get("technique") == "XPCS":
            return
        run = CXIRun(start, self.settings, self.statistics, self.files.append, self.errors.append)
        self._runs[start["uid"]] = run
        yield run
