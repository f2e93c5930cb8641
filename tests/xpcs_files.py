"""XPCS files in the layouts of other programs, written with plain h5py by the paths they use."""

import h5py
import numpy as np

from beamline.xpcs.partitions import make_partition
from beamline.xpcs.schemas import GeometryMetadata

SHAPE = (24, 32)
GEOMETRY = GeometryMetadata(
    bcx=15.5, bcy=11.25, det_dist=4000.0, lambda_=1.24, pix_dim=0.055, shape=SHAPE
)
DELAYS = np.array([1, 2, 3, 4, 6, 8])


def partition(**changes):
    mask = np.ones(SHAPE, np.int32)
    mask[:3, :4] = 0
    arguments = {"n_static": 12, "n_dynamic": 4, "n_static_phi": 6, "n_dynamic_phi": 3, **changes}
    return make_partition(GEOMETRY, mask, **arguments)


def correlation(n_q):
    g2 = 1.0 + np.outer(np.exp(-DELAYS / 3.0), np.linspace(0.2, 0.1, n_q))
    return g2, np.full_like(g2, 0.01)


def c2(size=10):
    times = np.arange(size)
    return (
        1.0 + 0.2 * np.exp(-np.abs(times[:, None] - times[None, :]) / 4.0) + 0.01 * times[:, None]
    )


def aps_result(path, bins, twotime=False):
    """A result as boost_corr writes it (NeXus)."""
    with h5py.File(path, "w") as file:
        file["/entry/start_time"] = "2026-11-21T10:00:00"
        file["/entry/instrument/detector_1/frame_time"] = 0.01
        file["/entry/instrument/detector_1/count_time"] = 0.009
        file["/entry/instrument/incident_beam/incident_energy"] = GEOMETRY.energy
        file.create_group("/entry/instrument/bluesky/metadata")
        simplemask_bins(file.create_group("/xpcs/qmap"), bins)
        del file["/xpcs/qmap/energy"]
        g2, error = correlation(bins.dynamic.n_labels)
        file["/xpcs/multitau/normalized_g2"] = g2
        file["/xpcs/multitau/normalized_g2_err"] = error
        file["/xpcs/multitau/delay_list"] = DELAYS
        file["/xpcs/multitau/config/stride_frame"] = 2
        file["/xpcs/multitau/config/avg_frame"] = 3
        if twotime:
            for label in (1, 3):
                file[f"/xpcs/twotime/correlation_map/c2_{label:05d}"] = np.triu(c2() + label)
    return path


def simplemask_bins(group, bins):
    """The content of ``/qmap`` as pySimpleMask 0.4.5 writes it."""
    group.attrs["hash"] = "f00"
    group.attrs["version"] = "0.4.5"
    group["map_names"] = ["q", "phi"]
    group["map_units"] = ["Å⁻¹", "deg"]
    group["mask"] = bins.mask.astype(bool)
    group["blemish"] = bins.mask.astype(bool)
    group["beam_center_x"], group["beam_center_y"] = GEOMETRY.bcx, GEOMETRY.bcy
    group["detector_distance"], group["pixel_size"] = 4.0, 55e-6
    group["energy"] = GEOMETRY.energy
    group["source_file"] = "frames.h5"
    for kind in ("dynamic", "static"):
        found = getattr(bins, kind)
        group[f"{kind}_roi_map"] = found.roi_map.astype(np.uint8)
        group[f"{kind}_v_list_dim0"] = found.v_list_dim0 / 10.0
        group[f"{kind}_v_list_dim1"] = found.v_list_dim1
        group[f"{kind}_index_mapping"] = found.index_mapping
        group[f"{kind}_num_pts"] = list(found.num_pts)


def simplemask_partition(path, bins):
    with h5py.File(path, "w") as file:
        simplemask_bins(file.create_group("/qmap"), bins)
    return path


def legacy_result(path, bins, twotime=False, version=True):
    """A result of the older programs of the APS; bins of q only."""
    with h5py.File(path, "w") as file:
        if version:
            file["/xpcs/Version"] = b"0.5"
        for kind in ("dynamic", "static"):
            found = getattr(bins, kind)
            file[f"/xpcs/{kind[0]}qmap"] = found.roi_map
            file[f"/xpcs/{kind[0]}qlist"] = found.v_list_dim0[None] / 10.0
            file[f"/xpcs/{kind[0]}philist"] = np.zeros((1, len(found.v_list_dim0)))
        file["/xpcs/mask"] = bins.mask
        file["/xpcs/stride_frames"] = np.array([[1]])
        file["/xpcs/avg_frames"] = np.array([[1]])
        instrument = "/measurement/instrument"
        file[f"{instrument}/acquisition/beam_center_x"] = np.array([[GEOMETRY.bcx]])
        file[f"{instrument}/acquisition/beam_center_y"] = np.array([[GEOMETRY.bcy]])
        file[f"{instrument}/detector/distance"] = np.array([[4000.0]])
        file[f"{instrument}/detector/x_pixel_size"] = np.array([[0.055]])
        file[f"{instrument}/detector/exposure_period"] = np.array([[0.01]])
        file[f"{instrument}/source_begin/energy"] = np.array([[GEOMETRY.energy]])
        g2, error = correlation(bins.dynamic.n_labels)
        file["/exchange/norm-0-g2"], file["/exchange/norm-0-stderr"] = g2, error
        file["/exchange/tau"] = DELAYS[None].astype(float)
        if twotime:
            file["/exchange/C2T_all/g2_00001"] = np.triu(c2())
    return path
