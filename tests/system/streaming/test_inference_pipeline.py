"""Simulated stills through Q1, inference workers and Q2, and what is true of the result."""

from __future__ import annotations

import os
import signal
import time
import uuid

import numpy as np
import pytest
from scipy.spatial import cKDTree

from beamline.crystallography.event_peaks import find_event_peaks
from beamline.streaming.inference import PipelineInput, WorkerSettings
from beamline.streaming.pipeline import run_pipeline
from beamline.streaming.pipeline_config import PipelineConfig
from beamline.streaming.pool import InferencePool, PoolSettings
from beamline.streaming.queue import ShardedQueueManager
from beamline.streaming.sources import frames_of_stills
from ioc.stills import SimulatedStills

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

SETTINGS = {"detector_nx": 256, "detector_ny": 250, "detector_panels": 2}


@pytest.fixture(scope="module")
def stills():
    with SimulatedStills(seed=77, energy=10500.0, settings=SETTINGS) as simulated:
        return list(simulated.take(10))


def configured(namespace, model="local-background", **inference):
    name = uuid.uuid4().hex[:8]
    return PipelineConfig.model_validate(
        {
            "ray": {"namespace": namespace},
            "runtime": {
                "queue_num_shards": 2,
                "queue_names": {"input_queue": f"q1_{name}", "output_queue": f"q2_{name}"},
            },
            "preprocessing": {"pad_to_multiple": 16, "padding": "centred"},
            "model": {"name": model},
            "inference": {"cpus_per_worker": 0.5, **inference},
        }
    )


def drained(config):
    """All items of Q2, until its end marker; their arrays are there until the next one."""
    queue = ShardedQueueManager(
        config.runtime.queue_names.output_queue, None, namespace=config.ray.namespace, create=False
    )
    deadline = time.monotonic() + 200
    while not queue.ended:
        assert time.monotonic() < deadline, "no end marker"
        leases = queue.lease(8, timeout=1.0)
        for lease in leases:
            yield lease.item
        queue.ack(leases)


@pytest.mark.parametrize("model", ["local-background", "spot-network"])
def test_the_simulated_spots_come_out_of_the_pipeline(namespace, stills, model):
    config = configured(namespace, model)
    report = run_pipeline(config, frames_of_stills(stills, 3, "run"))
    assert (report.fed, report.samples, report.refused) == (10, 10, 0), report.errors
    by_number = {still.number: still for still in stills}
    seen, spots, found, false, errors = set(), 0, 0, 0, []
    for item in drained(config):
        events, panels, height, width = item.preprocessing_metadata.original_shape
        logits = item.get_numpy_array().reshape(events, panels, 2, 256, 256)
        images = item.get_images().reshape(events, panels, 256, 256)
        for i, number in enumerate(item.metadata["still"].tolist()):
            still = by_number[number]
            seen.add(number)
            assert np.array_equal(images[i, :, 3:253], still.image)
            peaks = find_event_peaks(
                logits[i], images[i], padding=(3, 0), original_shape=(height, width), min_pixels=2
            )
            xy = np.c_[peaks.fs, peaks.ss + peaks.panel * height]
            distance, nearest = cKDTree(xy).query(still.spots[:, :2])
            errors.append((xy[nearest] - still.spots[:, :2])[distance < 2])
            spots, found = spots + len(still.spots), found + int((distance < 2).sum())
            distance, _ = cKDTree(still.all_spots[:, :2]).query(xy)
            false += int((distance > 3).sum())
            assert item.metadata["photon_energy"][i] == still.energy_eV
    error = np.concatenate(errors)
    assert seen == set(by_number)
    assert spots > 300
    assert found >= 0.99 * spots
    assert false <= 0.01 * found
    assert np.sqrt((error**2).mean()) <= 0.12
    assert np.abs(error.mean(axis=0)).max() < 0.01 + 4 * error.std() / np.sqrt(len(error))


def test_a_bad_item_is_named_and_the_next_good_one_comes_through(namespace, stills):
    config = configured(namespace)
    good = list(frames_of_stills(stills[:2], 1, "run"))
    bad = PipelineInput(image_data=np.zeros((4, 4), np.float32), batch_id="flat")
    empty = PipelineInput(image_data=np.array(["no", "frames"]), batch_id="words")
    report = run_pipeline(config, [bad, good[0], empty, good[1]])
    assert (report.samples, report.refused) == (2, 2)
    assert sorted(error.split(":")[0] for error in report.errors) == ["batch flat", "batch words"]
    assert sorted(item.batch_id for item in drained(config)) == ["run-0000000", "run-0000001"]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_is_lost(namespace, stills):
    config = configured(namespace)
    names = config.runtime.queue_names
    frames = ShardedQueueManager(names.input_queue, 1, 100, namespace=namespace, lease_seconds=3.0)
    logits = ShardedQueueManager(names.output_queue, 1, 100, namespace=namespace)
    logits.begin()
    items = list(frames_of_stills(stills * 4, 2, "run"))
    for item in items:
        assert frames.put(item)
    frames.end()
    pool = InferencePool(
        WorkerSettings(names.input_queue, names.output_queue, namespace),
        PoolSettings(1, 1, cpus_per_worker=0.5),
        "pool",
    )
    killed, deadline = [], time.monotonic() + 120
    while len(pool):
        assert time.monotonic() < deadline, pool.status
        pool.adjust()
        if not killed and logits.size():
            killed = pool.pids
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    logits.end()
    assert killed
    assert pool.restarts == 1
    assert {item.batch_id for item in drained(config)} == {item.batch_id for item in items}


@pytest.mark.slow
def test_workers_come_and_go_with_the_load(namespace, stills):
    config = configured(namespace)
    names = config.runtime.queue_names
    queue = ShardedQueueManager(names.input_queue, 1, 1000, namespace=namespace)
    queue.begin()
    pool = InferencePool(
        WorkerSettings(names.input_queue, None, namespace),
        PoolSettings(1, 3, cpus_per_worker=0.25, backlog_per_worker=2, idle_seconds=0.5),
        "pool",
    )
    for item in frames_of_stills(stills * 6, 1, "run"):
        assert queue.put(item)
    sizes, deadline = [], time.monotonic() + 90
    while pool.status.samples < 60 or len(pool) > 1:
        assert time.monotonic() < deadline, (pool.status, sizes)
        pool.adjust()
        sizes.append(len(pool))
        time.sleep(0.1)
    queue.end()
    while len(pool):
        assert time.monotonic() < deadline
        pool.adjust()
        time.sleep(0.1)
    assert max(sizes) > 1
    assert pool.status.samples == 60
