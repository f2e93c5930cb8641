"""The result file of an XPCS measurement, as a tree: a valid NXxpcs that the APS viewers open.

.. code-block:: text

    /entry                      NXxpcs: data (g2), twotime, instrument, sample, process
    /entry/instrument/bluesky   start document
    /xpcs/qmap                  mask, bins, geometry; attribute ``hash``
    /xpcs/temporal_mean         scattering per pixel and per static bin
    /xpcs/spatial_mean          counts per frame
    /xpcs/multitau              g2 (delay, bin) with errors
    /xpcs/diffusion             what was fitted to it
    /xpcs/twotime               two-time correlation, where there is one

q is in Å⁻¹ below ``/xpcs``, as those viewers expect it, lengths are in m, the photon energy in keV,
beam centres in pixels. Nothing here opens a file: `beamline.xpcs.hdf5_facade` writes the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline import __version__
from beamline.core.errors import BeamlineError
from beamline.core.units import HC
from beamline.nexus.metadata import add_mapping, document, iso_time, start_tree, stop_tree
from beamline.nexus.roles import Options
from beamline.nexus.tree import Attribute, Field, Group, Link, Tree
from beamline.xpcs.aps_layout import q_partition_tree
from beamline.xpcs.geometry import convert_q
from beamline.xpcs.partitions import QPartition
from beamline.xpcs.schemas import Q_UNITS, GeometryMetadata

__all__ = ["ResultError", "TwoTimePart", "XPCSResult", "result_tree"]

Array = npt.NDArray[np.float64]

_QMAP, _DETECTOR = "/xpcs/qmap", "/entry/instrument/detector_1"


class ResultError(BeamlineError, ValueError):
    """The parts of a result do not fit together."""


@dataclass(frozen=True, eq=False)
class TwoTimePart:
    """Two-time correlation of some bins.

    Attributes
    ----------
    bins
        Dynamic labels (from 1), increasing.
    c2
        One (n, n) float array per bin: C(t₁, t₂), both triangles or the upper one.
    g2
        (n, n_bins): mean along the diagonals, lag 0 first.
    g2_segments
        (m, n_segments, n_bins): the same of consecutive parts.
    frames
        Frames that were averaged into one row of `c2`, and the distance of rows in frames.
    """

    bins: tuple[int, ...]
    c2: tuple[Array, ...]
    g2: Array
    g2_segments: Array
    avg_frame: int = 1
    stride_frame: int = 1


@dataclass(frozen=True, eq=False)
class XPCSResult:
    """Everything that goes into a result file.

    Attributes
    ----------
    partition
        Bins and, in ``metadata``, the geometry of the detector.
    frame_time, exposure
        Distance of frames and exposure time, s.
    lags, g2, g2_err
        Lags (n_delay,) in frames; g2 and boost_corr's estimate of its error, (n_delay, n_dynamic).
    g2_err_block
        Errors with the right coverage, shaped like `g2`.
    affected
        bool (n_delay,): lags that lost pairs to missing frames.
    scattering_2d
        (H, W) mean counts of a frame.
    scattering_1d
        (n_static,) mean counts of a pixel of each static bin.
    scattering_1d_segments
        (n_segments, n_static), of consecutive parts of the run.
    intensity_vs_time
        (n,) mean counts of a valid pixel in each frame; of a very long run, means of several.
    frame_numbers
        int64 (n,): number of each of those frames, from 0, missing ones counted.
    start, stop
        The run's documents; `stop` is empty while it goes on.
    sources
        Files that the frames came from.
    n_frames, n_missing
        Frames that were correlated, and that were missing among them.
    twotime
        The two-time correlation, or None.
    settings
        Of the analysis, for the record.
    fits
        Names to numbers, or to arrays over the bins: what was fitted.
    """

    partition: QPartition
    frame_time: float
    exposure: float
    lags: npt.NDArray[np.int64]
    g2: Array
    g2_err: Array
    g2_err_block: Array
    affected: npt.NDArray[np.bool_]
    scattering_2d: Array
    scattering_1d: Array
    scattering_1d_segments: Array
    intensity_vs_time: Array
    frame_numbers: npt.NDArray[np.int64]
    start: Mapping[str, Any]
    stop: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    n_frames: int = 0
    n_missing: int = 0
    twotime: TwoTimePart | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    fits: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.frame_time) and self.frame_time > 0):
            raise ResultError(
                f"the frame time of an XPCS result must be greater than 0 s, found "
                f"{self.frame_time!r}: without it lags are no times."
            )
        if self.partition.metadata is None:
            raise ResultError(
                "an XPCS result needs the geometry of the detector, the partition has none: make "
                "the partition from a GeometryMetadata."
            )
        n_dynamic = self.partition.dynamic.n_labels
        n_static = self.partition.static.n_labels
        expected = {
            "g2": (len(self.lags), n_dynamic),
            "g2_err": (len(self.lags), n_dynamic),
            "g2_err_block": (len(self.lags), n_dynamic),
            "affected": (len(self.lags),),
            "scattering_2d": self.partition.shape,
            "scattering_1d": (n_static,),
            "scattering_1d_segments": (len(self.scattering_1d_segments), n_static),
            "frame_numbers": (len(self.intensity_vs_time),),
        }
        for name, shape in expected.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise ResultError(
                    f"{name} of an XPCS result must have the shape {shape}, found {found}."
                )

    @property
    def geometry(self) -> GeometryMetadata:
        """Where the detector stood."""
        assert self.partition.metadata is not None  # noqa: S101  (checked when it was made)
        return self.partition.metadata

    @property
    def delays(self) -> Array:
        """Lags in s."""
        return self.lags.astype(np.float64) * self.frame_time


def result_tree(result: XPCSResult, *, file_name: str = "", legacy: bool = False) -> Tree:
    """Return the nodes of a result file.

    Parameters
    ----------
    file_name
        Name of the file, which it states about itself.
    legacy
        Add ``/exchange/C2T_all/g2_%05d`` for viewers of the older layout.
    """
    tree: Tree = start_tree(_documented(result.start), Options.of({}), file_name)
    _add_xpcs(tree, result)
    _add_instrument(tree, result)
    _add_nexus_data(tree, result)
    _add_process(tree, result)
    if result.stop:
        tree.update(stop_tree(result.stop))
    if legacy and result.twotime is not None:
        tree["/exchange"] = Group("")
        tree["/exchange/C2T_all"] = Group("")
        for number, label in enumerate(result.twotime.bins):
            tree[f"/exchange/C2T_all/g2_{label:05d}"] = Field(np.triu(result.twotime.c2[number]))
    return tree


def _documented(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return a start document for data that have none, or lack a part of it."""
    return {"uid": "", "scan_id": 0, "plan_name": "xpcs", "time": 0.0, **start}


def _add_xpcs(tree: Tree, result: XPCSResult) -> None:
    source = result.sources[0] if result.sources else ""
    tree["/xpcs"] = Group("")
    tree.update(q_partition_tree(result.partition, _QMAP, source_file=source))
    _add_means(tree, result)
    _add_multitau(tree, result)
    if result.twotime is not None:
        _add_twotime(tree, result.twotime)


def _in_angstrom(values: Array, unit: str) -> Array:
    return convert_q(values, unit, "A^-1") if unit in Q_UNITS else values


def _add_means(tree: Tree, result: XPCSResult) -> None:
    counts: dict[str, Attribute] = {"units": "counts"}
    tree["/xpcs/temporal_mean"] = Group("")
    for name, value in (
        ("scattering_1d", result.scattering_1d[None]),
        ("scattering_1d_segments", result.scattering_1d_segments),
        ("scattering_2d", result.scattering_2d[None]),
    ):
        tree[f"/xpcs/temporal_mean/{name}"] = Field(value.astype(np.float32), counts)
    tree["/xpcs/spatial_mean"] = Group("")
    tree["/xpcs/spatial_mean/intensity_vs_time"] = Field(
        np.stack([result.frame_numbers.astype(np.float64), result.intensity_vs_time]),
        {**counts, "rows": ["frame number", "mean counts of a valid pixel"]},
    )


def _add_multitau(tree: Tree, result: XPCSResult) -> None:
    where = "/xpcs/multitau"
    none: dict[str, Attribute] = {"units": ""}
    tree[where] = Group("")
    tree[f"{where}/delay_list"] = Field(result.lags.astype(np.int64), {"units": "frames"})
    tree[f"{where}/normalized_g2"] = Field(result.g2, none)
    tree[f"{where}/normalized_g2_err"] = Field(
        result.g2_err, {**none, "estimate": "standard deviation over pixels / root of their number"}
    )
    tree[f"{where}/normalized_g2_err_block"] = Field(
        result.g2_err_block, {**none, "estimate": "block jackknife over pixels, 1 sigma"}
    )
    tree[f"{where}/affected_by_gaps"] = Field(result.affected.astype(np.uint8))
    tree[f"{where}/config"] = Group("")
    for name, value in {"stride_frame": 1, "avg_frame": 1, **result.settings}.items():
        _add_setting(tree, f"{where}/config/{name}", value)
    if result.fits:
        tree["/xpcs/diffusion"] = Group("")
        for name, value in result.fits.items():
            _add_setting(tree, f"/xpcs/diffusion/{name}", value)


def _add_setting(tree: Tree, path: str, value: Any) -> None:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        tree[path] = Field(value[0], {"units": value[1]})
    elif isinstance(value, bool | int | float | str | np.ndarray | np.generic):
        tree[path] = Field(value)
    elif value is not None:
        tree[path] = document(value)


def _add_twotime(tree: Tree, part: TwoTimePart) -> None:
    where = "/xpcs/twotime"
    none: dict[str, Attribute] = {"units": ""}
    tree[where] = Group("")
    tree[f"{where}/normalized_g2"] = Field(part.g2, none)
    tree[f"{where}/normalized_g2_segments"] = Field(part.g2_segments, none)
    tree[f"{where}/processed_bins"] = Field(np.array(part.bins, np.int64))
    step = part.avg_frame * part.stride_frame
    tree[f"{where}/delay_list"] = Field(
        np.arange(len(part.g2), dtype=np.int64) * step, {"units": "frames"}
    )
    tree[f"{where}/config"] = Group("")
    tree[f"{where}/config/stride_frame"] = Field(part.stride_frame)
    tree[f"{where}/config/avg_frame"] = Field(part.avg_frame)
    tree[f"{where}/correlation_map"] = Group("")
    for number, label in enumerate(part.bins):
        upper = np.triu(part.c2[number]).astype(np.float32)
        tree[f"{where}/correlation_map/c2_{label:05d}"] = Field(upper, none)


def _add_instrument(tree: Tree, result: XPCSResult) -> None:
    geometry = result.geometry
    instrument = "/entry/instrument"
    tree[f"{instrument}/incident_beam"] = Group("NXbeam")
    tree[f"{instrument}/incident_beam/incident_energy"] = Field(
        1e-3 * HC / geometry.lambda_, {"units": "keV"}
    )
    tree[f"{instrument}/incident_beam/incident_wavelength"] = Field(
        float(geometry.lambda_), {"units": "angstrom"}
    )
    tree[_DETECTOR] = Group("NXdetector")
    for name, value, unit in (
        ("frame_time", result.frame_time, "s"),
        ("count_time", result.exposure, "s"),
        ("beam_center_x", geometry.bcx, "pixel"),
        ("beam_center_y", geometry.bcy, "pixel"),
        ("distance", 1e-3 * geometry.det_dist, "m"),
        ("x_pixel_size", 1e-3 * geometry.pix_dim, "m"),
        ("y_pixel_size", 1e-3 * geometry.pix_dim, "m"),
    ):
        tree[f"{_DETECTOR}/{name}"] = Field(float(value), {"units": unit})
    detectors = result.start.get("detectors")
    if isinstance(detectors, list | tuple) and detectors:
        tree[f"{_DETECTOR}/description"] = Field(str(detectors[0]))
    masks = f"{instrument}/masks"
    tree[masks] = Group("NXnote")
    for kind in ("dynamic", "static"):
        tree[f"{masks}/{kind}_roi_map"] = Link(f"{_QMAP}/{kind}_roi_map")
    partition = result.partition
    if partition.map_names[0] == "q":
        for kind, values in (("dynamic", partition.dynamic_q), ("static", partition.static_q)):
            tree[f"{masks}/{kind}_q_list"] = Field(
                _in_angstrom(values, partition.map_units[0]), {"units": "1/angstrom"}
            )
    tree[f"{instrument}/bluesky"] = Group("NXcollection")
    add_mapping(tree, f"{instrument}/bluesky/metadata", result.start)


def _add_nexus_data(tree: Tree, result: XPCSResult) -> None:
    data = "/entry/data"
    stored: dict[str, Attribute] = {"storage_mode": "one_array", "units": ""}
    axes: dict[str, Attribute] = {
        "signal": "g2",
        "axes": ["delay", "."],
        "delay_indices": 0,
        "delay_difference_indices": 0,
    }
    tree[data] = Group("NXdata", axes)
    tree[f"{data}/title"] = Field("g2 over delay, one curve per dynamic bin")
    tree[f"{data}/g2"] = Field(result.g2, {**stored, "long_name": "g2"})
    tree[f"{data}/g2_derr"] = Field(result.g2_err_block, stored)
    tree[f"{data}/delay_difference"] = Field(
        result.lags.astype(np.int64), {"storage_mode": "one_array", "units": ""}
    )
    tree[f"{data}/delay"] = Field(result.delays, {"units": "s"})
    tree[f"{data}/frame_average"] = Field(result.scattering_2d.astype(np.float32), {"units": ""})
    tree["/entry"] = Group("NXentry", {"default": "data"})
    tree["/entry/definition"] = Field("NXxpcs")
    # Deprecated in favour of entry_identifier, and required all the same.
    tree["/entry/scan_number"] = Field(int(result.start.get("scan_id") or 0))
    part = result.twotime
    if part is None:
        return
    where = "/entry/twotime"
    # Not g2_from_two_time_corr_func: its attributes are integers that must equal a text.
    signal: dict[str, Attribute] = {"signal": "g2", "axes": ["delay", "."], "delay_indices": 0}
    tree[where] = Group("NXdata", signal)
    step = result.frame_time * part.avg_frame * part.stride_frame
    tree[f"{where}/delay"] = Field(np.arange(len(part.g2)) * step, {"units": "s"})
    tree[f"{where}/g2"] = Field(part.g2, {"units": ""})


def _add_process(tree: Tree, result: XPCSResult) -> None:
    tree["/entry/process"] = Group("NXprocess")
    tree["/entry/process/program"] = Field("beamline-dataflow")
    tree["/entry/process/version"] = Field(__version__)
    stop = result.stop.get("time", result.start.get("time", 0.0))
    tree["/entry/process/date"] = Field(iso_time(float(stop)))
    tree["/entry/process/frames"] = Field(result.n_frames)
    tree["/entry/process/missing_frames"] = Field(result.n_missing)
    tree["/entry/process/sources"] = Field(list(result.sources) or [""])
