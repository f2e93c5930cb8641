"""`beamline pipeline` and `beamline simulate-q2` from outside: files, exit status, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from beamline.core.errors import ConnectionLostError
from beamline.crystallography.geometry import read_geometry
from beamline.streaming.pipeline_config import load_pipeline_config
from beamline.streaming.queue import ShardedQueueManager

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[3] / "examples" / "configs" / "pipeline_default.yaml"


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from beamline.cli import main; main()", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=280)
    finally:
        process.kill()


def configuration(path: Path, address: str, name: str, **sections) -> Path:
    content = {
        "ray": {"address": address},
        "runtime": {
            "queue_num_shards": 2, "batch_size": 2,
            "queue_names": {"input_queue": f"{name}_q1", "output_queue": f"{name}_q2"},
        },
        "inference": {"max_workers": 1, "cpus_per_worker": 0.5},
        **sections,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def items_of(name: str, namespace: str):
    queue = ShardedQueueManager(name, None, namespace=namespace, create=False)
    deadline = time.monotonic() + 200
    while not queue.ended:
        assert time.monotonic() < deadline, "no end marker"
        leases = queue.lease(10, timeout=1.0)
        for lease in leases:
            yield lease.item
        queue.ack(leases)


def test_frames_of_files_become_logits_and_a_bad_file_is_named(ray_cluster, namespace, tmp_path):
    frames = np.random.default_rng(1).poisson(2.0, (5, 40, 48)).astype(np.uint16)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["/entry/data/data"] = frames
        file["/entry/instrument/NDAttributes/PhotonEnergy"] = np.full(5, 9000.0)
    config = configuration(
        tmp_path / "p.yaml", ray_cluster, "files",
        source={"kind": "file", "paths": [str(tmp_path / "frames.h5")]},
        preprocessing={"pad_to_multiple": 32},
    )  # fmt: skip
    process = started("pipeline", "--config", str(config), "--total-samples", "3")
    out, err = ended(process)
    assert process.returncode == 0, err
    assert out.startswith("READY input=files_q1 output=files_q2 shards=2")
    assert "3 frames in" in out
    seen = []
    for item in items_of("files_q2", namespace):
        assert item.get_numpy_array().shape[1:] == (2, 64, 64)
        assert item.metadata["photon_energy"].tolist() == [9000.0] * len(item.get_images())
        seen += list(item.get_images()[:, 0, :40, :48])
    assert np.array_equal(sorted(f.sum() for f in seen), sorted(f.sum() for f in frames[:3]))

    (tmp_path / "bad.h5").write_bytes(b"no HDF5")
    config = configuration(
        tmp_path / "p.yaml", ray_cluster, "bad",
        source={"kind": "file", "paths": [str(tmp_path / "bad.h5")]},
    )  # fmt: skip
    process = started("pipeline", "--config", str(config))
    out, err = ended(process)
    assert process.returncode == 1
    assert "bad.h5 can't be read" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_ends_the_source_and_what_was_taken_is_processed(ray_cluster, namespace, tmp_path):
    config = configuration(
        tmp_path / "p.yaml", ray_cluster, "stop",
        source={
            "kind": "simulator", "rate": 4.0, "geom_file": str(tmp_path / "d.geom"),
            "physics": {"detector_nx": 128, "detector_ny": 96, "detector_panels": 2},
        },
    )  # fmt: skip
    process = started("pipeline", "--config", str(config))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("READY")
    deadline = time.monotonic() + 90
    queue = None
    while queue is None or not queue.size():
        assert time.monotonic() < deadline, "no logits"
        assert process.poll() is None, ended(process)
        try:
            queue = ShardedQueueManager("stop_q2", None, namespace=namespace, create=False)
        except (LookupError, ConnectionLostError):  # not there yet, or not all of it
            queue = None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = ended(process)
    assert process.returncode == 0, err
    samples = int(out.split(" frames in")[0].split()[-1])
    items = list(items_of("stop_q2", namespace))
    assert sum(len(item.metadata["still"]) for item in items) == samples >= 2
    assert read_geometry(tmp_path / "d.geom", distance_m=0.1).stack_shape == (2, 96, 128)


def test_the_simulated_q2_has_the_truth_beside_it(ray_cluster, namespace, tmp_path):
    process = started(
        "simulate-q2", "--events", "7", "--batch", "2", "--pixels", "96", "--distinct", "3",
        "--queue", "sim_q2", "--shards", "2", "--address", ray_cluster, "--hostile", "no-image",
        "--hostile-every", "3", "--truth", str(tmp_path / "t.npz"),
        "--geometry", str(tmp_path / "d.geom"),
    )  # fmt: skip
    _, err = ended(process)
    assert process.returncode == 0, err
    assert "7 events" in err
    items = {item.batch_id: item for item in items_of("sim_q2", namespace)}
    with np.load(tmp_path / "t.npz") as truth:
        assert set(truth["batch_id"]) == set(items)
        assert len(truth["still"]) == 7
        bad = {b for b, fault in zip(truth["batch_id"], truth["fault"], strict=True) if fault}
    assert len(bad) == 1
    assert {b for b, item in items.items() if item.original_image_ref is None} == bad


def test_the_example_is_complete_and_says_the_defaults():
    assert load_pipeline_config(EXAMPLE) == load_pipeline_config(None)
    known = load_pipeline_config(None).model_dump(mode="json")
    written = yaml.safe_load(EXAMPLE.read_text())
    assert {k: set(v) for k, v in known.items()} == {k: set(v) for k, v in written.items()}
