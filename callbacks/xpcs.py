"""XPCS from documents: g2 while the run goes on, and a result file at its end.

.. mermaid::

    flowchart LR
        documents --> router[PerRunRouter] --> run["one analysis per run"]
        file["HDF5 file of the detector"] -- "frames or photons, in blocks" --> run
        run -- "start, descriptor, events with g2, stop" --> sinks["journal, other consumers"]
        run --> png["…_results.png"] & hdf["…_results.hdf"]

Frames are correlated in the thread that brings the documents, which refer to them while they come
(`beamline.plans.xpcs_series`). Pictures are drawn in a thread of their own.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.documents.consumers import Consumer
from beamline.documents.router import PerRunRouter
from beamline.xpcs.diffusion import Diffusion
from beamline.xpcs.partitions import PartitionError, QPartition, make_partition
from beamline.xpcs.schemas import GeometryMetadata, MaskSchema, PartitionSchema
from callbacks._xpcs_run import COUNTS, XPCSRun, XPCSSettings, file_name

__all__ = ["COUNTS", "XPCSWriter", "file_name"]

Mask = npt.NDArray[Any]
#: Bins as they are made here, and as the mask editor exports them.
Partition = QPartition | PartitionSchema | Mapping[str, Any]


class XPCSWriter:
    """Document consumer that correlates the frames of XPCS runs while they come.

    Frames may be dense or photon events (NXevent_data); the documents may come live, from a replay
    or over the network. For each run there are

    - the documents of a run of its own, ``plan_name: g2``, whose stream ``g2`` has an event with
      g2, its errors, delays and q every `interval` seconds; they go to `sinks`;
    - a picture, ``…_results.png``, that is replaced every `plot_interval` seconds;
    - at the stop document the result file ``{scan_id:05d}_{plan}_{uid8}_results.hdf``, a valid
      NXxpcs that the APS viewers open (``docs/xpcs.md``).

    Missing frames (gaps in the detector's frame numbers, frames that can't be read) cost the pairs
    that they are part of, no more, and the lags concerned are marked; nothing is correlated across
    a restart of the detector. Of a run that fails, the file has what came, with its exit status.

    Parameters
    ----------
    directory
        Made if it is missing.
    partition
        The bins (a `QPartition`, or a `PartitionSchema` or its dict, as the mask editor exports
        them); by default they are made from the geometry in the descriptor, which also serves for
        bins that come without one.
    mask
        (H, W), 1 = valid; of a given partition, it leaves pixels out.
    n_dynamic, n_static, method, q_range
        Of bins that are made, as for `beamline.xpcs.partitions.make_partition`.
    levels
        Of the multi-tau correlator: the longest lag is 2^(levels + 2) frames.
    two_time
        Frames that the two-time correlation keeps at most (of longer runs, sums of neighbours are
        correlated); 0: there is none.
    interval
        Seconds between two documents of g2, at least; of large detectors it takes as long to make
        one as until the next.
    plot_interval
        Seconds between two pictures; 0 for none.
    frame_time
        From one frame to the next (s); by default what start document or descriptor say.
    geometry
        Instead of what the descriptor says.
    every_run
        Analyse whatever run has frames; by default only those whose start document says
        ``technique: XPCS``.
    image_key
        Data key of the frames; by default the first image of a stream, external ones first.
    sinks
        Consumers of the g2 documents; by default a journal in ``journal/`` below the directory.
    frame_timeout
        Seconds after its document that a frame may take to appear in its file.
    legacy
        Add the two-time correlation in the older layout too.

    Attributes
    ----------
    files, pictures : list[Path]
        Finished result files; pictures that were begun.
    diffusions : list[Diffusion]
        What was fitted, in the order of the files.
    statistics : Counter[str]
        Totals over all runs, keys as in `COUNTS`.
    errors : deque[BeamlineError]
        The last things that went wrong (at most 1,000).

    Examples
    --------
    >>> RE.subscribe(XPCSWriter("data/xpcs", mask=mask, n_dynamic=20, n_static=100))
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        partition: Partition | None = None,
        mask: Mask | None = None,
        n_dynamic: int = 20,
        n_static: int = 100,
        method: Literal["linear", "log"] = "linear",
        q_range: tuple[float, float] | None = None,
        levels: int = 8,
        two_time: int = 0,
        interval: float = 0.25,
        plot_interval: float = 2.0,
        frame_time: float | None = None,
        geometry: GeometryMetadata | None = None,
        every_run: bool = False,
        image_key: str | None = None,
        sinks: Iterable[Consumer] | None = None,
        frame_timeout: float = 10.0,
        legacy: bool = False,
    ) -> None:
        if interval < 0 or plot_interval < 0:
            raise ConfigurationError(
                f"interval and plot_interval must be 0 s or more, found {interval!r} and "
                f"{plot_interval!r}."
            )
        self.settings = XPCSSettings(
            directory=Path(directory),
            levels=levels,
            two_time=two_time,
            interval=interval,
            plot_interval=plot_interval,
            frame_time=frame_time,
            geometry=geometry,
            image_key=image_key,
            frame_timeout=frame_timeout,
            legacy=legacy,
        )
        self._bins = _Bins(
            partition,
            mask,
            {"n_dynamic": n_dynamic, "n_static": n_static, "method": method, "q_range": q_range},
        )
        self._every_run = every_run
        self._sinks = None if sinks is None else list(sinks)
        self._journal: Any = None
        self.files: list[Path] = []
        self.pictures: list[Path] = []
        self.diffusions: list[Diffusion] = []
        self.statistics: collections.Counter[str] = collections.Counter(dict.fromkeys(COUNTS, 0))
        self.errors: collections.deque[BeamlineError] = collections.deque(maxlen=1000)
        self._runs: dict[str, XPCSRun] = {}
        self._router = PerRunRouter([self._new_run])

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document.

        Raises
        ------
        ConsumerError
            If a run can't be analysed, or its file not be written.
        """
        try:
            self._router(name, doc)
        finally:
            if name == "stop":
                self._runs.pop(doc["run_start"], None)

    def use(self, partition: Partition | None = None, mask: Mask | None = None) -> None:
        """Take other bins, or another mask, from the next frames on; from any thread.

        A run that goes on gets a further stream (``g2_2``, …) and a further result file
        (``…_part2_results.hdf``). Bins that turn out not to fit its frames are refused with an
        entry in `errors`, and it goes on with those it has.

        Parameters
        ----------
        partition
            The bins; None keeps those in use.
        mask
            (H, W), 1 = valid; None with a partition uses all pixels of it.

        Raises
        ------
        ConfigurationError
            If neither is given.
        SchemaValidationError, PartitionError
            If one is not valid, or no pixel is left.
        """
        if partition is None and mask is None:
            raise ConfigurationError("use() needs a partition, a mask, or both; found neither.")
        self._bins.replace(partition, mask)

    def close(self) -> None:
        """Write what is known of runs that have not stopped, labelled, and close the journal."""
        for run in tuple(self._runs.values()):
            run.abandon()
        self._runs.clear()
        self._router = PerRunRouter([self._new_run])
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _new_run(self, start: Mapping[str, Any]) -> Iterable[Consumer]:
        if not self._every_run and start.get("technique") != "XPCS":
            return
        # What came out of an analysis is not analysed again.
        if start.get("plan_name") == "g2" and "analysis_of" in start:
            return
        run = XPCSRun(
            start,
            self.settings,
            self._bins,
            self._consumers,
            self.statistics,
            self.files.append,
            self.pictures.append,
            self.errors.append,
            self.diffusions.append,
        )
        self._runs[start["uid"]] = run
        yield run

    def _consumers(self) -> Iterable[Consumer]:
        if self._sinks is not None:
            return self._sinks
        if self._journal is None:
            from beamline.documents.journal import JournalWriter

            self._journal = JournalWriter(self.settings.directory / "journal")
        return [self._journal]


class _Bins:
    """The bins that are wanted at present, and a number that says which."""

    def __init__(
        self, partition: Partition | None, mask: Mask | None, options: dict[str, Any]
    ) -> None:
        self._lock = threading.Lock()
        self._given: QPartition | None = None
        self._mask: Mask | None = None
        self._options = options
        self._version = 0
        self._made: tuple[GeometryMetadata | None, int, QPartition] | None = None
        self.replace(partition, mask)

    def replace(self, partition: Partition | None, mask: Mask | None) -> None:
        given = None if partition is None else _bins_of(partition)
        valid = None if mask is None else MaskSchema(mask).mask
        if valid is not None and not valid.any():
            raise PartitionError("No pixel can be sorted into bins: all of them are masked.")
        with self._lock:
            given = self._given if given is None else given
            if given is not None and valid is not None:
                given.masked(valid)
            self._given, self._mask = given, valid
            self._version += 1

    def __call__(self, geometry: Callable[[], GeometryMetadata]) -> tuple[QPartition, int]:
        with self._lock:
            version, given, mask = self._version, self._given, self._mask
        here = None if given is not None and given.metadata is not None else geometry()
        if self._made is None or self._made[:2] != (here, version):
            self._made = here, version, self._make(given, mask, here)
        return self._made[2], version

    def _make(
        self, given: QPartition | None, mask: Mask | None, here: GeometryMetadata | None
    ) -> QPartition:
        if given is None:
            assert here is not None  # noqa: S101  (asked for above)
            return make_partition(here, mask, **self._options)
        made = given if here is None else dataclasses.replace(given, metadata=here)
        return made if mask is None else made.masked(mask)


def _bins_of(partition: Partition) -> QPartition:
    if isinstance(partition, QPartition):
        return partition
    if not isinstance(partition, PartitionSchema):
        partition = PartitionSchema.from_dict(partition)
    return QPartition.from_schema(partition)
