"""A result with everything in it: gaps, two-time correlation, bins of q and azimuth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.partitions import make_partition
from beamline.xpcs.result import TwoTimePart, XPCSResult, result_tree
from beamline.xpcs.schemas import GeometryMetadata

SHAPE, FRAMES = (60, 50), 200
BINS = (1, 3)


def make_result(*, twotime: bool = True) -> XPCSResult:
    geometry = GeometryMetadata(
        bcx=20.4, bcy=31.7, det_dist=5000.0, lambda_=1.3776, pix_dim=0.075, shape=SHAPE
    )
    mask = np.ones(SHAPE)
    mask[28:36, 16:25] = 0
    partition = make_partition(
        geometry, mask, n_static=12, n_dynamic=4, n_static_phi=4, n_dynamic_phi=2
    )
    rng = np.random.default_rng(3)
    lags = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32])
    bins, statics = partition.dynamic.n_labels, partition.static.n_labels
    decay = np.exp(-np.multiply.outer(lags, np.linspace(0.02, 0.3, bins)))
    g2 = 1 + 0.3 * decay
    times = np.arange(FRAMES)
    c2 = tuple(1 + 0.3 * np.exp(-0.05 * k * abs(np.subtract.outer(times, times))) for k in BINS)
    part = TwoTimePart(
        bins=BINS, c2=c2, g2=np.stack([c[0] for c in c2], axis=1),
        g2_segments=np.ones((FRAMES // 5, 5, len(BINS))),
    )  # fmt: skip
    return XPCSResult(
        partition=partition,
        frame_time=0.005,
        exposure=0.004,
        lags=lags,
        g2=g2,
        g2_err=np.full_like(g2, 0.01),
        g2_err_block=np.full_like(g2, 0.004),
        affected=lags > 20,
        scattering_2d=rng.poisson(3, SHAPE).astype(float),
        scattering_1d=np.linspace(5, 1, statics),
        scattering_1d_segments=np.tile(np.linspace(5, 1, statics), (10, 1)),
        intensity_vs_time=rng.random(FRAMES),
        frame_numbers=times,
        start={
            "uid": "3d0a14d8-6be3-4a63-a36c-34f53b8c2a3e", "time": 1.79e9, "scan_id": 7,
            "plan_name": "xpcs_series", "sample": {"name": "silica"}, "detectors": ["ad1"],
            "xpcs": {"num_frames": FRAMES, "position": {"sample_x": 1.0}},
            "instrument": {"name": "BL02", "source": {"name": "ring"}},
        },
        stop={"time": 1.79e9 + 1, "exit_status": "success", "reason": ""},
        sources=("/data/frames.h5",),
        n_frames=FRAMES,
        n_missing=2,
        twotime=part if twotime else None,
        settings={"levels": 3},
        fits={"D": (400.0, "angstrom^2/s")},
    )  # fmt: skip


def write(path: Path, *, twotime: bool = True, legacy: bool = False) -> XPCSResult:
    result = make_result(twotime=twotime)
    HDF5Facade().write_result(path, result_tree(result, file_name=path.name, legacy=legacy))
    return result
