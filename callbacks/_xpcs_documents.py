"""g2 as documents: a run of its own beside the measured one, with a stream for each partition."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.documents.consumers import Consumer, deliver
from beamline.xpcs.correlation import Correlation, lag_grid
from beamline.xpcs.diffusion import Diffusion
from beamline.xpcs.geometry import convert_q
from beamline.xpcs.partitions import QPartition
from beamline.xpcs.schemas import Q_UNITS

__all__ = ["G2Run", "q_of_bins"]


def q_of_bins(partition: QPartition) -> npt.NDArray[np.float64]:
    """Return q at the centre of each dynamic bin, 1/nm; of bins of something else, that."""
    unit = partition.map_units[0]
    values = partition.dynamic_q
    return convert_q(values, unit, "nm^-1") if unit in Q_UNITS else values


class G2Run:
    """Documents of the g2 of one measured run, given to consumers as they come.

    The start document says ``technique: XPCS``, ``plan_name: g2`` and, in ``analysis_of``, the uid
    of the measured run. Each partition has a stream (``g2``, ``g2_2``, …); its descriptor's
    configuration of ``xpcs`` has frame time, exposure and levels. An event is g2 as it is at that
    moment; the last one of a stream is the final one.

    Parameters
    ----------
    start
        Start document of the measured run.
    consumers
        Take the documents.
    """

    def __init__(self, start: Mapping[str, Any], consumers: Iterable[Consumer]) -> None:
        from event_model import compose_run

        self._consumers = list(consumers)
        metadata = {
            "plan_name": "g2",
            # Bluesky's LiveTable ends with it.
            "plan_type": "analysis",
            "technique": "XPCS",
            "analysis_of": str(start["uid"]),
            "hints": {"dimensions": [(["time"], "g2")]},
        }
        for key in ("scan_id", "sample", "beamline_id", "xpcs"):
            if key in start:
                metadata[key] = start[key]
        self._run = compose_run(metadata=metadata)
        self.uid = str(self._run.start_doc["uid"])
        self._streams = 0
        self._stream: Any = None
        self._lags: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._constant: dict[str, Any] = {}
        self._give("start", self._run.start_doc)

    @property
    def stream(self) -> str:
        """Name of the present stream."""
        return "g2" if self._streams == 1 else f"g2_{self._streams}"

    def begin_stream(
        self, partition: QPartition, frame_time: float, exposure: float, levels: int
    ) -> None:
        """Begin a stream for a partition."""
        self._streams += 1
        self._lags = lag_grid(levels)[0]
        n_delay, n_bins = len(self._lags), partition.dynamic.n_labels
        table = [n_delay, n_bins]
        self._constant = {
            "lag": self._lags.tolist(),
            "delay": (self._lags * frame_time).tolist(),
            "q": q_of_bins(partition).tolist(),
            "phi": partition.dynamic_phi.tolist(),
        }
        keys = {
            "lag": _array([n_delay], "", "<i8"),
            "delay": _array([n_delay], "s"),
            "q": _array([n_bins], "1/nm"),
            "phi": _array([n_bins], partition.map_units[1]),
            "g2": _array(table, ""),
            "g2_err": _array(table, ""),
            "g2_err_block": _array(table, ""),
            "affected": _array([n_delay], "", "|i1"),
            "intensity": _array([n_bins], "counts"),
            "frames": _number("integer", ""),
            "missing_frames": _number("integer", ""),
            "newest_frame": _number("number", "s"),
        }
        settings = {"frame_time": (frame_time, "s"), "exposure": (exposure, "s")}
        now = time.time()
        configuration = {
            "xpcs": {
                "data": {**{k: v for k, (v, _) in settings.items()}, "levels": levels},
                "timestamps": dict.fromkeys((*settings, "levels"), now),
                "data_keys": {
                    **{k: _number("number", unit) for k, (_, unit) in settings.items()},
                    "levels": _number("integer", ""),
                },
            }
        }
        self._stream = self._run.compose_descriptor(
            name=self.stream,
            data_keys=keys,
            configuration=configuration,
            object_keys={"xpcs": list(keys)},
            hints={"xpcs": {"fields": ["g2"]}},
        )
        self._give("descriptor", self._stream.descriptor_doc)

    def add(self, found: Correlation, missing: int, newest: float) -> None:
        """Make an event of g2 as it is now.

        Parameters
        ----------
        missing
            Frames that were missing so far.
        newest
            Time stamp of the newest frame in it, s; NaN if it has none.
        """
        data = {
            **self._constant,
            "g2": self._filled(found.g2),
            "g2_err": self._filled(found.g2_err),
            "g2_err_block": self._filled(found.g2_err_block),
            "affected": self._filled(found.affected.astype(np.int8), 0),
            "intensity": found.intensity.tolist(),
            "frames": found.n_frames,
            "missing_frames": missing,
            "newest_frame": newest,
        }
        event = self._stream.compose_event(
            data=data, timestamps=dict.fromkeys(data, time.time()), filled={}
        )
        self._give("event", event)

    def add_diffusion(self, found: Diffusion) -> None:
        """Say what was fitted, as the one event of a stream ``diffusion`` (``diffusion_2``, …)."""
        units: dict[str, str] = {}
        data: dict[str, Any] = {}
        for name, value in found.fields().items():
            if isinstance(value, str):
                continue
            number, units[name] = value if isinstance(value, tuple) else (value, "")
            data[name] = number.tolist() if isinstance(number, np.ndarray) else number
        keys = {
            name: _array([len(value)], units[name])
            if isinstance(value, list)
            else _number("integer" if isinstance(value, int) else "number", units[name])
            for name, value in data.items()
        }
        stream = self._run.compose_descriptor(
            name=self.stream.replace("g2", "diffusion", 1),
            data_keys=keys,
            object_keys={"xpcs": list(keys)},
            hints={"xpcs": {"fields": ["D"]}},
        )
        self._give("descriptor", stream.descriptor_doc)
        timestamps = dict.fromkeys(data, time.time())
        self._give("event", stream.compose_event(data=data, timestamps=timestamps, filled={}))

    def _filled(self, values: npt.NDArray[Any], missing: float = np.nan) -> list[Any]:
        """Add lags that no pair of frames has yet."""
        whole = np.full((len(self._lags), *values.shape[1:]), missing, dtype=values.dtype)
        whole[: len(values)] = values
        filled: list[Any] = whole.tolist()
        return filled

    def end(self, exit_status: str, reason: str) -> None:
        """End the run as the measured one ended."""
        self._give("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))

    def _give(self, name: str, doc: Mapping[str, Any]) -> None:
        deliver(self._consumers, name, doc, self.uid)


def _array(shape: list[int], units: str, dtype: str = "<f8") -> dict[str, Any]:
    return {
        "dtype": "array", "dtype_numpy": dtype, "shape": shape, "units": units, "source": "xpcs",
    }  # fmt: skip


def _number(kind: str, units: str) -> dict[str, Any]:
    return {"dtype": kind, "shape": [], "units": units, "source": "xpcs"}
