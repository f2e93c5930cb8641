"""Frames of a Bluesky run to Q1, by reference, each with what the run knows about it.

.. mermaid::

    flowchart LR
        RE[RunEngine] -- documents --> waiting[bounded queue] --> thread[feeder thread]
        file["HDF5 file of the detector"] -- frames --> thread
        thread -- "frames by reference, positions" --> q1[("Q1")]
        q1 --> workers["inference workers"] --> q2[("Q2")] --> writer["cxi-writer"]
        writer -- "documents of the hits, with their positions" --> map["HitMap"]

The RunEngine's thread only appends a document to a list. Frames stay in the detector's file until
Q1 has room for them, so that a slow inference delays no scan and loses nothing.
"""

from __future__ import annotations

import collections
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beamline.core.closing import Closing
from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.crystallography.geometry import Detector
from beamline.streaming.config import RaySettings
from beamline.streaming.inference import PipelineInput
from beamline.streaming.queue import ShardedQueueManager
from beamline.streaming.simulate import timestamp
from callbacks._frame_feed import EventFrames, FrameFeed
from callbacks._image_stream import ImageStream

__all__ = ["COUNTS", "RayFeeder"]

_log = logging.getLogger(__name__)

#: What is counted: documents taken, and dropped because too many waited; frames put on Q1; events
#: whose frame did not come; frames left out, because no photon energy is known or `close` could not
#: wait; seconds (rounded down) that the RunEngine had to wait.
COUNTS = ("documents", "dropped", "frames", "missing", "refused", "waited_seconds")

_POLL = 0.05
_PUT_SECONDS = 0.5


@dataclass
class _Batch:
    stream: ImageStream
    frames: list[npt.NDArray[Any]] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)
    stamps: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)


class RayFeeder(Closing):
    """Document consumer that puts the frames of every run on Q1.

    Each frame goes with its photon energy (eV), time, number of its event (``seq_num``) and every
    number of its event, motor positions among them, under the names of the data keys; ``units`` has
    their units. An inference pipeline whose source is the queue (`beamline pipeline`) takes them
    from there.

    The RunEngine is never aborted, and it waits only if `policy` says so: whatever goes wrong is
    counted and in the log.

    Parameters
    ----------
    queue
        Base name of Q1.
    num_shards, maxsize_per_shard
        Of a new Q1.
    ray
        Cluster and namespace; Ray is connected to if it is not already.
    batch_size
        Frames per item.
    batch_seconds
        A smaller item goes out when its first frame has waited for so long.
    image_key, energy_key, geometry, frame_timeout
        As for `callbacks.cxi.CXIWriter`.
    max_waiting
        Documents that may wait for the thread. They are small: frames stay in their file.
    policy
        What happens to a document beyond that: "drop" it (start, stop and descriptors never), or
        let the RunEngine "wait".
    on_error
        Called with everything that goes wrong, in the feeder's thread.

    Attributes
    ----------
    statistics : Counter[str]
        Keys as in `COUNTS`.

    Raises
    ------
    ConfigurationError
        If Q1 exists with another number of shards, or numbers are below 1.
    ConnectionLostError
        If there is no cluster.
    """

    def __init__(
        self,
        queue: str = "peaknet_q1",
        num_shards: int = 8,
        maxsize_per_shard: int = 1600,
        *,
        ray: RaySettings | None = None,
        batch_size: int = 4,
        batch_seconds: float = 1.0,
        image_key: str | None = None,
        energy_key: str = "mono_energy",
        geometry: Detector | None = None,
        frame_timeout: float = 10.0,
        max_waiting: int = 100_000,
        policy: Literal["drop", "wait"] = "drop",
        on_error: Callable[[BeamlineError], object] | None = None,
    ) -> None:
        if batch_size < 1 or max_waiting < 1:
            raise ConfigurationError(
                f"batch_size and max_waiting must be at least 1, found {batch_size} and "
                f"{max_waiting}."
            )
        if policy not in ("drop", "wait"):
            raise ConfigurationError(f"policy must be drop or wait, found {policy!r}.")
        self.statistics: collections.Counter[str] = collections.Counter(dict.fromkeys(COUNTS, 0))
        self._batch_size, self._batch_seconds = batch_size, batch_seconds
        self._image_key, self._energy_key = image_key, energy_key
        self._geometry, self._frame_timeout = geometry, frame_timeout
        self._max_waiting, self._policy = max_waiting, policy
        self._on_error = on_error
        self._documents: collections.deque[tuple[str, Mapping[str, Any]]] = collections.deque()
        self._room = threading.Condition()
        self._waited = 0.0
        self._closing = threading.Event()
        self._give_up = math.inf
        self._runs: dict[str, _Run] = {}
        self._owners: dict[str, _Run] = {}
        ready: list[Exception | None] = []
        began = threading.Event()
        self._thread = threading.Thread(
            target=self._work,
            args=(queue, num_shards, maxsize_per_shard, ray or _default_ray(), ready, began),
            name="ray-feeder",
            daemon=True,
        )
        self._thread.start()
        began.wait()
        if ready[0] is not None:
            raise ready[0]

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        with self._room:
            if len(self._documents) >= self._max_waiting and name not in (
                "start", "stop", "descriptor",
            ):  # fmt: skip
                if self._policy == "drop":
                    self._drop(name)
                    return
                began = time.monotonic()
                self._room.wait_for(
                    lambda: len(self._documents) < self._max_waiting or not self._thread.is_alive()
                )
                self._waited += time.monotonic() - began
                self.statistics["waited_seconds"] = int(self._waited)
            self.statistics["documents"] += 1
            self._documents.append((name, doc))
            self._room.notify_all()

    def close(self, timeout: float = 60.0) -> None:
        """Put what is left on Q1, say that it was all, and end.

        Parameters
        ----------
        timeout
            Seconds to wait for room on Q1; frames beyond are counted as refused.
        """
        if self._thread.is_alive():
            self._give_up = time.monotonic() + timeout
            self._closing.set()
            with self._room:
                self._room.notify_all()
            self._thread.join()

    def _drop(self, name: str) -> None:
        self.statistics["dropped"] += 1
        if self.statistics["dropped"] == 1:
            _log.error(
                "%d documents wait for Q1: a document (%s) was dropped, and its frame is not "
                "looked at; more are counted",
                len(self._documents),
                name,
            )

    # --- in the thread

    def _work(
        self,
        queue: str,
        num_shards: int,
        maxsize: int,
        settings: RaySettings,
        ready: list[Exception | None],
        began: threading.Event,
    ) -> None:
        from beamline.streaming.cluster import connected

        try:
            with connected(settings):
                frames = ShardedQueueManager(
                    queue, num_shards, maxsize, namespace=settings.namespace
                )
                frames.begin()
                ready.append(None)
                began.set()
                self._feed(frames)
                frames.end()
        except Exception as error:  # noqa: BLE001  (told to whoever waits, or logged)
            if not ready:
                ready.append(error)
            else:
                self._tell(f"the feeder of {queue} has ended, no more frames are looked at", error)
        finally:
            began.set()
            with self._room:
                self._room.notify_all()

    def _feed(self, frames: ShardedQueueManager) -> None:
        while True:
            with self._room:
                self._room.wait_for(lambda: self._documents or self._closing.is_set(), _POLL)
                taken = list(self._documents)
                self._documents.clear()
                self._room.notify_all()
            for name, doc in taken:
                try:
                    self._take(name, doc, frames)
                except Exception as error:  # noqa: BLE001  (the next document may be good)
                    self._tell(f"a {name} document was not understood", error)
            for run in list(self._runs.values()):
                self._advance(run, frames)
            if self._closing.is_set() and not self._documents:
                for run in list(self._runs.values()):
                    self._advance(run, frames, final=True)
                return

    def _take(self, name: str, doc: Mapping[str, Any], frames: ShardedQueueManager) -> None:
        if name == "start":
            self._runs[doc["uid"]] = _Run(
                doc, FrameFeed(
                    image_key=self._image_key,
                    geometry=self._geometry,
                    timeout=self._frame_timeout,
                ),
            )  # fmt: skip
            return
        if name == "stop":
            run = self._runs.get(doc["run_start"])
            if run is not None:
                self._advance(run, frames, final=True)
                del self._runs[doc["run_start"]]
                self._owners = {k: v for k, v in self._owners.items() if v is not run}
            return
        run = self._run_of(doc)
        if run is not None:
            if name in ("descriptor", "resource", "stream_resource"):
                self._owners[doc["uid"]] = run
            run.feed.add(name, doc)

    def _run_of(self, doc: Mapping[str, Any]) -> _Run | None:
        if "run_start" in doc:
            return self._runs.get(doc["run_start"])
        for key in ("descriptor", "stream_resource", "resource"):
            if doc.get(key) in self._owners:
                return self._owners[doc[key]]
        return None

    def _advance(self, run: _Run, frames: ShardedQueueManager, *, final: bool = False) -> None:
        for item in run.feed.ready(final=final):
            if item.error is not None:
                self.statistics["missing"] += 1
                self._tell(f"event {item.seq_num} has no frame", item.error)
            for number, image in enumerate(item.frames):
                self._add(run, item, number, image, frames)
        batch = run.batch
        if batch is not None and (final or time.monotonic() - batch.began > self._batch_seconds):
            self._send(run, frames)

    def _add(
        self,
        run: _Run,
        item: EventFrames,
        number: int,
        image: npt.NDArray[Any],
        frames: ShardedQueueManager,
    ) -> None:
        energy = run.feed.energy(item, number, self._energy_key)
        if not 0.0 < energy < math.inf:
            self.statistics["refused"] += 1
            self._tell(
                f"event {item.seq_num} is left out",
                ConfigurationError(
                    f"its photon energy is unknown: no data key {self._energy_key!r}, no "
                    "PhotonEnergy in the frame's file."
                ),
            )
            return
        if run.batch is not None and (
            run.batch.stream is not item.stream or run.batch.frames[0].shape != image.shape
        ):
            self._send(run, frames)
        if run.batch is None:
            run.batch = _Batch(item.stream)
        batch = run.batch
        batch.frames.append(image)
        batch.stamps.append(timestamp(run.time_ns(item, number)))
        numbers = {key: item.reading(key) for key in item.stream.scan_units}
        row = {
            "photon_energy": energy,
            "seq_num": float(item.seq_num),
            **{key: math.nan if found is None else found[0] for key, found in numbers.items()},
        }
        for key, value in row.items():
            batch.columns.setdefault(key, []).append(value)
        if len(batch.frames) >= self._batch_size:
            self._send(run, frames)

    def _send(self, run: _Run, frames: ShardedQueueManager) -> None:
        batch, run.batch = run.batch, None
        assert batch is not None  # noqa: S101  (the callers see to it)
        # A panel axis: (frames, 1, ss, fs).
        item = PipelineInput(
            image_data=np.stack(batch.frames)[:, None],
            metadata={
                **run.about,
                "units": dict(batch.stream.scan_units),
                "timestamp": np.array(batch.stamps, np.uint64),
                **{key: np.array(values) for key, values in batch.columns.items()},
            },
            batch_id=f"{batch.stream.name}-{run.number:06d}",
        )
        run.number += 1
        while not frames.put_wait(item, timeout=_PUT_SECONDS):
            if time.monotonic() > self._give_up:
                self.statistics["refused"] += len(batch.frames)
                self._tell(
                    f"{len(batch.frames)} frames are left out",
                    ConfigurationError(
                        "Q1 had no room until the end: is an inference pipeline running?"
                    ),
                )
                return
        self.statistics["frames"] += len(batch.frames)

    def _tell(self, what: str, error: Exception) -> None:
        told = BeamlineError(f"{what}: {error}")
        _log.error("%s", told)
        if self._on_error is not None:
            self._on_error(told)


class _Run:
    """One open run."""

    def __init__(self, start: Mapping[str, Any], feed: FrameFeed) -> None:
        self.feed = feed
        self.batch: _Batch | None = None
        self.number = 0
        self._last = float(start["time"])
        sample = start.get("sample")
        self.about: dict[str, Any] = {
            "run_uid": str(start["uid"]),
            "plan_name": str(start.get("plan_name", "")),
            "scan": str(start.get("scan_id", "")),
            "sample": str(sample.get("name", "") if isinstance(sample, Mapping) else sample or ""),
        }
        grid = {key: start[key] for key in ("motors", "shape", "extents") if key in start}
        if len(grid) == 3:
            self.about["grid"] = json.dumps({k: _plain(v) for k, v in grid.items()})

    def time_ns(self, item: EventFrames, number: int) -> int:
        """Time of a frame, Unix, ns."""
        stored = item.stored("NDArrayTimeStamp", number)
        if stored is None:
            stored = self._last if item.event is None else float(item.event["time"])
        self._last = stored
        return round(stored * 1e9)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _default_ray() -> RaySettings:
    return RaySettings.model_validate({})
