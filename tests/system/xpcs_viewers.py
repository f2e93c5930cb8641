"""Open a result file in xpcs-viewer and pySimpleMask, without a display; say what they found.

Run by a Python that has both (``make viewers``): prints one line of JSON.
"""

from __future__ import annotations

import json
import sys

from pysimplemask.core.file_handler import get_handler
from pyxpcsviewer.core.file_io.ftype_utils import get_ftype
from pyxpcsviewer.core.xpcs_file import XpcsFile


def main(path: str) -> None:
    file = XpcsFile(path)
    q, delays, g2, _, labels = file.get_g2_data()
    fit = file.fit_g2(
        bounds=[[0.0, 1e-6, 0.1, 0.9], [1.0, 10.0, 2.0, 1.1]], fit_flag=[True] * 4
    )  # fmt: skip
    file.get_saxs1d_data()
    file.get_hdf_info()
    file.get_twotime_maps()
    c2 = file.get_twotime_c2(0)
    mask = get_handler("APS_8IDI", path)
    found = {
        "type": get_ftype(path),
        "analysis": list(file.atype),
        "g2": list(g2.shape),
        "delays": delays.tolist(),
        "q": q.tolist(),
        "labels": labels,
        "scattering": list(file.saxs_2d.shape),
        "trace": list(file.Int_t_fft.shape),
        "c2": list(c2["c2_mat"].shape),
        "c2_bins": [number for number, _ in file.get_twotime_stream()[1]],
        "fitted": list(fit["fit_val"].shape),
        "mask_scattering": list(mask.get_scattering().shape),
        "mask_distance": float(mask._get_metadata()["detector_distance"]),
        "mask_partition": sorted(mask.saved_partition),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
