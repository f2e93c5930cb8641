"""XPCS through the whole path: server → IOC → files → documents → g2 → diffusion constant."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from simulated_beamline import Documents

from beamline.documents import Journal, JournalWriter
from beamline.documents.replay import replay
from beamline.plans import xpcs_series
from callbacks._xpcs_plot import digest
from callbacks.xpcs import XPCSWriter

pytestmark = pytest.mark.system

Q_RANGE = (1.5, 5.5)


def g2_of(path):
    with h5py.File(path) as file:
        return file["/xpcs/multitau/normalized_g2"][()]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_g2_comes_during_the_run_and_a_replay_gives_the_same(
    speckle_bl, engine, docs, tmp_path, sparse
):
    g2_docs = Documents()
    journal = JournalWriter(tmp_path / "journal")
    live = XPCSWriter(
        tmp_path / "live", n_dynamic=8, n_static=40, q_range=Q_RANGE, interval=0.05,
        plot_interval=0.1, sinks=[g2_docs],
    )  # fmt: skip
    engine.subscribe(journal)
    engine.subscribe(live)
    engine(
        xpcs_series(
            speckle_bl.area_detector, 600, exposure=0.005, period=0.01,
            attenuation=0.02 if sparse else 1.0, sparse=sparse,
        )
    )  # fmt: skip
    assert not live.errors
    (path,) = live.files
    events = g2_docs.events("g2")
    assert len(events) > 2
    assert [event["data"]["frames"] for event in events][-1] == 600
    g2 = g2_of(path)
    np.testing.assert_array_equal(np.array(events[-1]["data"]["g2"])[: len(g2)], g2)
    (picture,) = live.pictures
    assert digest(g2).encode() in picture.read_bytes()
    again = XPCSWriter(
        tmp_path / "again", n_dynamic=8, n_static=40, q_range=Q_RANGE, plot_interval=0
    )
    record = Journal(tmp_path / "journal")
    replay(record.documents(record.find("-1")), [again])
    assert [p.name for p in again.files] == [path.name]
    np.testing.assert_array_equal(g2_of(again.files[0]), g2)
    again.close()
    live.close()
