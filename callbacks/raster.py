"""From a scan in a Bluesky session to CXI files and a hit map, by way of Ray, in one object.

What runs as programs of their own on a cluster (`beamline pipeline`, `cxi-writer`) runs here in
threads of this process, with its workers on Ray; the queues between them are the same.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from beamline.core.closing import Closing
from beamline.core.errors import ProcessError
from beamline.crystallography.geometry import Detector, write_geometry
from beamline.documents.consumers import Consumer
from beamline.streaming.cluster import connected
from beamline.streaming.config import RaySettings
from beamline.streaming.models import check_model
from beamline.streaming.pipeline import PipelineReport, run_pipeline
from beamline.streaming.pipeline_config import PipelineConfig
from callbacks.hit_map import HitMap
from callbacks.inference import RayFeeder

__all__ = ["HitFinding"]

_log = logging.getLogger(__name__)


class HitFinding(Closing):
    """Document consumer that finds the hits of a scan on Ray while it runs.

    Use it as a context manager; at the end of the block all frames are looked at, and files and
    maps are complete::

        with HitFinding(directory, detector) as finding:
            token = RE.subscribe(finding)
            RE(mesh_scan([bl.area_detector], bl.sample.y, …, bl.sample.x, …))
            RE.unsubscribe(token)
        finding.map.files

    Parameters
    ----------
    directory
        CXI files, their journal (``journal/``), geometry and maps go there.
    detector
        Its geometry.
    model, model_options
        As for `beamline.streaming.models.load_model`.
    workers
        Inference workers at most; their number follows the load.
    min_num_peak
        Peaks from which a frame is a hit.
    x, y
        Data keys of the map's motors.
    ray
        Cluster; a local one is started where there is none.
    consumers
        Of the documents of the inference run, beside its journal and the map.
    feeder
        Further options of `RayFeeder`.

    Attributes
    ----------
    map : HitMap
        Makes the maps.
    feeder : RayFeeder
        Puts frames on Q1; its `statistics` tell what was dropped.
    report : PipelineReport or None
        What the inference did, at the end.
    written : dict or None
        Counts of the CXI writer, at the end.

    Raises
    ------
    ConfigurationError
        If there is no such model.
    ConnectionLostError
        If there is no cluster.
    """

    def __init__(
        self,
        directory: str | Path,
        detector: Detector,
        *,
        model: str = "local-background",
        model_options: Mapping[str, Any] | None = None,
        workers: int = 2,
        min_num_peak: int = 10,
        x: str = "sample_x",
        y: str = "sample_y",
        ray: RaySettings | None = None,
        consumers: Iterable[Consumer] = (),
        **feeder: Any,
    ) -> None:
        check_model(model, model_options or {})
        self.directory = Path(directory)
        self.map = HitMap(self.directory, x=x, y=y, min_num_peak=min_num_peak)
        self.report: PipelineReport | None = None
        self.written: dict[str, Any] | None = None
        self._settings = ray or RaySettings.model_validate({})
        # Queues of its own: two scans at a time do not mix.
        name = uuid.uuid4().hex[:8]
        self._names = {"input_queue": f"frames_{name}", "output_queue": f"logits_{name}"}
        self._shards = 2
        self._pipeline = PipelineConfig.model_validate(
            {
                "ray": self._settings.model_dump(),
                "runtime": {"queue_num_shards": self._shards, "queue_names": self._names},
                "preprocessing": {"image_dtype": "source"},
                "model": {"name": model, "options": dict(model_options or {})},
                "inference": {"max_workers": workers, "cpus_per_worker": 0.5},
            }
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        geometry = self.directory / "detector.geom"
        write_geometry(geometry, detector)
        self._writer = {
            "ray": self._settings.model_dump(mode="json"),
            "queue": {"name": self._names["output_queue"]},
            "processing": {"num_cpu_workers": 1, "adaptive_workers": False},
            "peak_finding": {"min_num_peak": min_num_peak, "min_pixels": 2},
            "geometry": {"geom_file": str(geometry), "distance_mm": detector.distance_m * 1e3},
            "output": {"output_dir": str(self.directory)},
            "system": {"health_port": None},
        }
        self._consumers = [self.map, *consumers]
        self._errors: list[Exception] = []
        self._given_up = threading.Event()
        self._connection = connected(self._settings)
        self._connection.__enter__()
        try:
            self.feeder = RayFeeder(
                self._names["input_queue"], self._shards, ray=self._settings, **feeder
            )
        except BaseException:
            self._connection.__exit__(None, None, None)
            raise
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True)
            for work in (self._infer, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        self.feeder(name, doc)

    def close(self, timeout: float = 600.0) -> None:
        """Wait until every frame has been looked at and every file is complete.

        Raises
        ------
        ProcessError
            If a part failed, or was not done in time.
        """
        self.feeder.close(timeout)
        for thread in self._threads:
            thread.join(timeout)
        late = [thread.name.strip("_") for thread in self._threads if thread.is_alive()]
        self._given_up.set()
        for thread in self._threads:
            thread.join(10.0)
        self._connection.__exit__(None, None, None)
        if self._errors:
            raise ProcessError(f"hit finding failed: {self._errors[0]}") from self._errors[0]
        if late:
            raise ProcessError(f"hit finding was not done after {timeout:g} s: {', '.join(late)}.")

    def _infer(self) -> None:
        self.report = run_pipeline(self._pipeline, None, stopping=self._given_up.is_set)

    def _write(self) -> None:
        from beamline.streaming.coordinator import run_cpu_postprocessing_pipeline

        self.written = run_cpu_postprocessing_pipeline(
            self._writer, stopping=self._given_up.is_set, consumers=self._consumers
        )

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (raised again by `close`)
            _log.exception("hit finding has stopped")
            self._errors.append(error)
            self._given_up.set()
