"""``cxi-writer`` on a real Ray: from Q2 to files and documents, whatever is killed or wrong."""

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from cxi_runs import Command, config, kill, ray_processes, reference_shard, rows, until
from q2_items import ENERGY, SHAPE, geometry_file, make

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture
def place(tmp_path):
    geometry_file(tmp_path / "d.geom")
    return tmp_path


@pytest.fixture
def fill(namespace):
    """Make a queue and put items into it; return it and the truth."""
    import ray

    from beamline.streaming.queue import ShardedQueueManager

    def filled(name, numbers, *, end=True, shards=2, spoil=lambda n, item: item, **more):
        queue = ShardedQueueManager(name, shards)
        truths = {}
        for number in numbers:
            item, truth = make(number, put=ray.put, **more)
            assert queue.put(spoil(number, item))
            truths[truth.batch_id] = truth
        if end:
            queue.end()
        return queue, truths

    return filled


def write(settings, **more):
    from beamline.streaming.coordinator import run_cpu_postprocessing_pipeline

    return run_cpu_postprocessing_pipeline(settings, **more)


def expected(truths, events=4):
    return Counter({(batch, i): 1 for batch in truths for i in range(events)})


def test_values_of_every_event_are_in_the_files_and_in_documents(fill, place):
    queue, truths = fill("q_values", range(1, 9), run="r1", sample_x=1.5)
    docs = []
    done = write(config(place, "q_values"), consumers=[lambda n, d: docs.append((n, d))])
    assert done["written"] == done["hits"] == done["frames"] == 32
    assert (done["lost"], done["refused"], done["duplicates"]) == (0, 0, 0)
    assert rows(place / "out") == expected(truths)
    assert queue.is_empty()
    for path in (place / "out" / "r1").glob("*.cxi"):
        with h5py.File(path) as file:
            batches = file["/entry_1/batch_id"].asstr()[()]
            for row, (batch, event) in enumerate(
                zip(batches, file["/entry_1/event_id"][()], strict=True)
            ):
                truth = truths[batch]
                np.testing.assert_array_equal(
                    file["/entry_1/data_1/data"][row],
                    truth.images[event].reshape(-1, SHAPE[2]),
                )
                assert file["/LCLS/photon_energy_eV"][row] == pytest.approx(ENERGY)
                n = file["/entry_1/result_1/nPeaks"][row]
                assert n == len(truth.spots[event])
                found = np.stack(
                    [file[f"/entry_1/result_1/peak{a}PosRaw"][row, :n] for a in "YX"], axis=1
                )
                spots = truth.spots[event]
                apart = np.linalg.norm(found[:, None] - spots[None, :, 1:], axis=2)
                assert apart.min(axis=0).max() < 0.5
    assert docs[0][0] == "start"
    assert docs[-1][1]["num_events"] == {"primary": 32, "hits": 32}
    assert docs[-1][1]["exit_status"] == "success"


def test_the_run_can_be_replayed(fill, place):
    from beamline.crystallography import check_cxi
    from beamline.documents import Journal
    from beamline.documents.replay import replay
    from callbacks.cxi import CXIWriter

    fill("q_docs", range(1, 5), run="r7")
    write(config(place, "q_docs", output={"buffer_size": 6}))
    out = place / "out"
    journal = Journal(out / "journal")
    (run,) = journal.runs()
    assert run.exit_status == "success"
    writer = CXIWriter(place / "again")
    replay(journal.documents(run), [writer])
    assert writer.statistics["frames"] == 16
    assert writer.statistics["written"] == 16
    assert [check_cxi(path) for path in writer.files] == [[]]


@pytest.mark.slow
def test_the_run_is_in_the_catalogue(fill, place):
    from beamline.catalog import open_catalog, sync_catalog

    fill("q_catalogue", range(1, 5), run="r7")
    write(config(place, "q_catalogue", output={"buffer_size": 6}))
    out = place / "out"
    result = sync_catalog(out)
    assert (result.added, result.failed) == (1, {})
    found = open_catalog(out)[-1]
    assert found.metadata["start"]["source_run"] == "r7"
    assert found.metadata["stop"]["totals"]["hit"] == 16
    assert sorted(found) == ["hits", "primary"]
    assert list(found["primary"].read()["n_peaks"]) == [15] * 16


def test_a_producer_that_is_gone_before_the_writer_starts_loses_nothing(
    ray_cluster, namespace, place
):
    code = (
        "import ray\nfrom q2_items import make\n"
        f"ray.init(address={ray_cluster!r}, namespace={namespace!r}, log_to_driver=False)\n"
        "from beamline.streaming.queue import ShardedQueueManager\n"
        "queue = ShardedQueueManager('q_gone', 2)\n"
        "for n in range(1, 11):\n    assert queue.put(make(n, put=ray.put)[0])\n"
        "queue.end()\n"
    )
    folder = str(Path(__file__).parents[2])
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path},
                   check=True, timeout=250)  # fmt: skip
    done = write(config(place, "q_gone"))
    assert (done["written"], done["lost"]) == (40, 0)
    assert rows(place / "out") == expected([f"batch{n:05d}" for n in range(1, 11)])


def hostile(number, item):
    import ray

    if number == 2:
        logits = np.array(ray.get(item.predictions_ref))
        logits[1, 1, 3, 3] = np.nan
        item.predictions_ref = ray.put(logits)
    elif number == 4:
        item.original_image_ref = ray.put(ray.get(item.original_image_ref)[:, :, :40])
    elif number == 6:
        item.original_image_ref = None
    elif number == 8:
        item.metadata["photon_wavelength"] = 0.0
    elif number == 10:
        item.metadata["timestamp"] = 7_258_118_400 << 32
    elif number == 12:
        return {"not": "an item"}
    elif number == 14:
        item.preprocessing_metadata.original_shape = (4, 3, 96, 80)
    return item


def test_every_bad_item_is_counted_and_named_and_every_good_one_written(fill, place, caplog):
    import ray

    queue, truths = fill("q_hostile", range(1, 16), end=False, spoil=hostile)
    again, _ = make(1, put=ray.put)
    assert queue.put(again)
    last, truth = make(99, put=ray.put)
    assert queue.put(last)
    queue.end()
    reasons = []

    def told(name, doc):
        if name == "event_page":
            reasons.extend(doc["data"].get("reason", []))

    done = write(config(place, "q_hostile"), consumers=[told])
    assert done["refused"] == 1 + 4 * 5 + 1
    assert done["duplicates"] == 4, done
    assert done["lost"] == 0
    bad = {f"batch{n:05d}" for n in (2, 4, 6, 8, 10, 12, 14)}
    good = expected([b for b in [*truths, truth.batch_id] if b not in bad])
    good.update(("batch00002", i) for i in (0, 2, 3))
    assert rows(place / "out") == good
    for word in ("NaN", "image", "photon energy", "timestamp", "PipelineOutput", "geometry"):
        assert any(word in reason for reason in reasons), word
        assert word in caplog.text
    assert done["last_error"]


def test_queues_of_the_reference_are_consumed_as_they_are(namespace, place):
    import ray

    shards = [
        ray.remote(reference_shard())
        .options(name=f"q_reference_shard_{i}", lifetime="detached", num_cpus=0)
        .remote(100)
        for i in range(3)
    ]
    truths = {}
    for number in range(1, 10):
        item, truth = make(number, put=ray.put)
        assert ray.get(shards[number % 3].put.remote(item))
        truths[truth.batch_id] = truth
    settings = config(place, "q_reference", queue={"idle_timeout": 1.0})
    done = write(settings)
    assert (done["written"], done["lost"]) == (36, 0)
    assert rows(place / "out") == expected(truths)


@pytest.mark.slow
def test_killed_workers_and_writers_cost_nothing_and_write_nothing_twice(fill, place):
    queue, truths = fill("q_kills", range(1, 4), end=False, spots=12)
    result = {}
    settings = config(place, "q_kills", output={"buffer_size": 8, "max_file_seconds": 0.3})
    thread = threading.Thread(target=lambda: result.update(write(settings)))
    thread.start()
    try:
        import ray

        number, killed = 4, Counter()
        while killed["CXIFileWriter"] < 2 or killed["process_samples"] < 1:
            for _ in range(6):
                item, truth = make(number, put=ray.put, spots=12)
                assert queue.put_wait(item, 60)
                truths[truth.batch_id] = truth
                number += 1
            for part in ("CXIFileWriter", "process_samples"):
                for pid in ray_processes(part)[:1]:
                    kill(pid)
                    killed[part] += 1
            assert number < 400
    finally:
        queue.end()
        thread.join(250)
    assert result["lost"] == 0
    assert result["writer_deaths"] >= 1
    assert result["retries"] >= 1
    assert rows(place / "out") == expected(truths)
    assert not list((place / "out").rglob("*.inprogress"))


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_where_it_was(ray_cluster, fill, place):
    _, truths = fill("q_restart", range(1, 41))
    settings = config(place, "q_restart", output={"buffer_size": 5, "max_file_seconds": 0.2})
    first = Command(place, ray_cluster, settings)
    try:
        first.ready()
        until(lambda: len(rows(place / "out")) >= 10)
        first.process.kill()
        first.wait()
        assert len(rows(place / "out")) < 160
        second = Command(place, ray_cluster, settings)
        try:
            second.ready()
            assert second.wait() == 0, second.log.read_text()
        finally:
            second.stop()
    finally:
        first.stop()
    assert rows(place / "out") == expected(truths)
    from beamline.documents import Journal

    journal = Journal(place / "out" / "journal")
    hits = Counter()
    for run in journal.runs():
        for name, doc in journal.documents(run):
            if name == "event_page" and "verdict" not in doc["data"]:
                hits.update(zip(doc["data"]["batch_id"], doc["data"]["event_id"], strict=True))
    assert hits == expected(truths)


@pytest.mark.slow
def test_the_command_tells_its_health_and_stops_when_asked(ray_cluster, fill, place):
    _, truths = fill("q_health", range(1, 6), end=False)
    command = Command(place, ray_cluster, config(place, "q_health"))
    try:
        url = command.ready()["health"]

        def metrics():
            text = urllib.request.urlopen(url, timeout=10).read().decode()
            return dict(
                line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")
            )

        until(lambda: float(metrics()["cxi_writer_written_total"]) == 20)
        found = metrics()
        assert float(found["cxi_writer_hit_rate"]) == 1.0
        assert float(found["cxi_writer_queue_depth"]) == 0.0
        assert float(found["cxi_writer_lost_total"]) == 0.0
        for name in ("pending", "frames_per_second"):
            assert f"cxi_writer_{name}" in found
        for name in ("filtered", "truncated", "files", "refused"):
            assert f"cxi_writer_{name}_total" in found
        assert any(name.startswith("cxi_writer_last_error_time_seconds") for name in found)
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(60) == 0, command.log.read_text()
    finally:
        command.stop()
    assert rows(place / "out") == expected(truths)
    assert "20 events written" in command.log.read_text()


def test_it_waits_for_the_queue_and_says_for_which(namespace, place, caplog):
    from beamline.core.errors import ConnectionLostError

    settings = config(place, "q_nowhere", queue={"wait_timeout": 1.0})
    with pytest.raises(ConnectionLostError, match="q_nowhere"):
        write(settings)
    assert "waiting for queue 'q_nowhere'" in caplog.text


def test_another_number_of_shards_is_refused(fill, place):
    from beamline.core.errors import ConfigurationError

    fill("q_eight", [1], shards=4)
    settings = config(place, "q_eight", queue={"num_shards": 3})
    with pytest.raises(ConfigurationError, match="4 shards"):
        write(settings)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)],
                          capture_output=True, check=False)  # fmt: skip
    if made.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_once_and_costs_nothing(fill, place, small_disk, caplog):
    _, truths = fill("q_full", range(1, 13))
    settings = config(place, "q_full", output={"output_dir": str(small_disk / "out")})
    blocker = small_disk / "blocker"
    blocker.write_bytes(b"x" * 9_000_000)
    counts = []

    def write_all():
        from beamline.streaming.health import WriterCounts

        state = WriterCounts()
        counts.append(state)
        write(settings, counts=state)

    thread = threading.Thread(target=write_all)
    thread.start()
    try:
        until(lambda: counts and counts[0].blocked, 250)
    finally:
        blocker.unlink()
        thread.join(250)
    assert rows(small_disk / "out") == expected(truths)
    assert (counts[0].lost, counts[0].written) == (0, 48)
    assert caplog.text.count("make room") == 1
    assert "room on the disk again" in caplog.text
