"""Result files: valid NXxpcs by both validators under both definitions, and open in the viewers.

``make viewers`` installs the viewers of the APS and runs their test; without it that is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from nexus_validators import COMMUNITY, OFFICIAL, default_plot
from xpcs_results import BINS, FRAMES, SHAPE, write

pytestmark = pytest.mark.system

#: Python that has xpcs-viewer and pySimpleMask.
VIEWERS = os.environ.get("BEAMLINE_VIEWERS")


@pytest.mark.parametrize("twotime", [True, False], ids=["two-time", "multi-tau"])
def test_the_file_is_a_valid_nxxpcs(tmp_path, validators, twotime):
    path = tmp_path / "result_results.hdf"
    write(path, twotime=twotime)
    for definitions in (OFFICIAL, COMMUNITY):
        assert not validators[definitions].application(path, "NXxpcs").errors
        assert not validators[definitions].base_classes(path).errors
    assert default_plot(path)


@pytest.mark.skipif(VIEWERS is None, reason="run it by `make viewers`")
def test_the_file_opens_in_the_viewers_of_the_aps(tmp_path):
    path = tmp_path / "result_results.hdf"
    result = write(path)
    script = Path(__file__).parent / "xpcs_viewers.py"
    done = subprocess.run(
        [str(VIEWERS), str(script), str(path)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    bins = result.partition.dynamic.n_labels
    assert found["type"] == "nexus"
    assert found["analysis"] == ["Twotime", "Multitau"]
    assert found["g2"] == [16, bins]
    assert found["delays"] == pytest.approx(result.delays.tolist())
    assert found["q"] == pytest.approx((0.1 * result.partition.dynamic_q).tolist())
    assert found["scattering"] == list(SHAPE)
    assert found["c2"] == [FRAMES, FRAMES]
    assert found["c2_bins"] == list(BINS)
    assert found["fitted"] == [bins, 2, 4]
    assert found["mask_scattering"] == list(SHAPE)
    assert found["mask_distance"] == pytest.approx(5.0)
    assert "dynamic_roi_map" in found["mask_partition"]
