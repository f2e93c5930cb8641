"""Documents of inference runs, the ledger of what was written, and the number of workers."""

import event_model
import pytest
from bluesky.callbacks import LiveTable
from q2_items import geometry_file, make

from beamline.crystallography.geometry import read_geometry
from beamline.streaming.batches import BatchHeader
from beamline.streaming.file_writer import CXIFileWriter
from beamline.streaming.receipts import FileSettings
from beamline.streaming.run_metadata import RunMetadata
from beamline.streaming.source import HITS, IMAGE, PRIMARY, Q2Source
from beamline.streaming.tasks import PeakSearch, process_samples
from beamline.streaming.workers import WorkerCount
from beamline.streaming.written import WrittenLedger


@pytest.fixture
def detector(tmp_path):
    return read_geometry(geometry_file(tmp_path / "d.geom"))


def processed(detector, number, **more):
    item, _ = make(number, **more)
    header = BatchHeader.from_item(item)
    batch = process_samples(
        item.get_numpy_array(), item.get_images(), header, None, PeakSearch(detector)
    )
    return batch, item.get_images()


def rows_of(batch):
    return [
        {
            "time": e.time_ns * 1e-9,
            "n_peaks": e.n_peaks,
            "photon_energy": e.photon_energy_eV,
            "event_id": e.index,
            "batch_id": batch.header.batch_id,
        }
        for e in batch.hits
    ]


def test_documents_are_a_run_that_event_model_accepts(tmp_path, detector):
    docs = []
    metadata = RunMetadata({"sample": {"name": "lysozyme"}, "proposal": "p1"})
    source = Q2Source(
        [lambda name, doc: docs.append((name, doc))],
        {"queue": {"name": "q"}, "peak_finding": {"min_num_peak": 10}},
        detector, metadata, tmp_path / "metadata.json",
    )  # fmt: skip
    hit, _ = processed(detector, 1, run="r1", sample_x=1.5, units={"sample_x": "um"})
    miss, _ = processed(detector, 2, run="r1", spots=2)
    source.events(hit)
    source.events(miss)
    source.file(tmp_path / "a.cxi", "r1", (4, 96, 80), "<f4", rows_of(hit))
    source.finish()
    for name, doc in docs:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    kinds = [name for name, _ in docs]
    assert kinds[:3] == ["start", "descriptor", "event_page"]
    start, stop = docs[0][1], docs[-1][1]
    assert start["sample"] == {"name": "lysozyme"}
    assert start["source_run"] == "r1"
    assert start["scan_id"] == 1
    assert "corner_x" in start["geometry"]
    assert start["configuration"]["peak_finding"]["min_num_peak"] == 10
    assert stop["num_events"] == {PRIMARY: 8, HITS: 4}
    assert stop["totals"] == {"hit": 4, "not_hit": 4, "refused": 0, "files": 1, "truncated": 0}
    pages = [doc for name, doc in docs if name == "event_page"]
    assert pages[0]["data"]["sample_x"] == [1.5] * 4
    assert pages[1]["data"]["hit_rate"][-1] == 0.5
    assert pages[1]["data"]["hit"] == [False] * 4
    descriptors = {doc["name"]: doc for name, doc in docs if name == "descriptor"}
    assert descriptors[PRIMARY]["data_keys"]["sample_x"]["units"] == "um"
    assert descriptors[HITS]["data_keys"][IMAGE]["shape"] == [96, 80]
    datum = next(doc for name, doc in docs if name == "stream_datum")
    assert datum["indices"] == {"start": 0, "stop": 4}
    assert datum["seq_nums"] == {"start": 1, "stop": 5}


def test_the_sample_of_the_source_run_is_that_of_the_inference_run(tmp_path, detector):
    docs = []
    source = Q2Source(
        [lambda name, doc: docs.append((name, doc))], {}, detector, RunMetadata(),
        tmp_path / "metadata.json",
    )  # fmt: skip
    source.events(processed(detector, 1, run="r1", sample="lysozyme", plan_name="mesh_scan")[0])
    start = docs[0][1]
    assert start["sample"] == {"name": "lysozyme"}
    assert start["source_metadata"] == {"sample": "lysozyme", "plan_name": "mesh_scan"}


def test_blueskys_own_live_table_shows_the_hit_rate(tmp_path, detector):
    lines = []
    table = LiveTable(["n_peaks", "hit_rate"], out=lines.append)
    source = Q2Source([table], {}, detector, RunMetadata(), tmp_path / "metadata.json")
    for number, spots in ((1, 15), (2, 2)):
        source.events(processed(detector, number, run="r1", spots=spots)[0])
    source.finish()
    assert source.errors == 0
    text = "\n".join(lines)
    assert "hit_rate" in text
    assert "0.500" in text
    assert "stream q2_inference" in text


def test_a_consumer_that_fails_harms_no_other(tmp_path, detector):
    docs = []

    def bad(name, doc):
        raise RuntimeError("broken")

    source = Q2Source(
        [bad, lambda name, doc: docs.append(name)], {}, detector, RunMetadata(), tmp_path / "m.json"
    )
    source.events(processed(detector, 1)[0])
    source.finish()
    assert docs == ["start", "descriptor", "event_page", "stop"]
    assert source.errors == 4
    assert "broken" in source.last_error


def written_file(tmp_path, detector, ledger, number):
    writer = CXIFileWriter(
        FileSettings(directory=tmp_path, writer=ledger.writer, begun=ledger.begun), detector
    )
    batch, images = processed(detector, number, run="r1")
    writer.submit_processed_batch(number, batch, images)
    return batch, writer.flush_final().completed[0]


def test_the_ledger_knows_what_was_written_also_after_a_restart(tmp_path, detector):
    ledger = WrittenLedger(tmp_path)
    batch, made = written_file(tmp_path, detector, ledger, 1)
    keys = [batch.key(event) for event in batch.events]
    assert not any(key in ledger for key in keys)
    ledger.record(keys, made.path)
    assert all(key in ledger for key in keys)
    ledger.close()
    again = WrittenLedger(tmp_path)
    assert all(key in again for key in keys)
    assert again.found == []
    other, _ = processed(detector, 2, run="r1")
    assert other.key(other.events[0]) not in again


def test_a_complete_file_that_was_not_noted_is_found_by_the_next_writer_only_once_dead(
    tmp_path, detector
):
    ledger = WrittenLedger(tmp_path)
    batch, made = written_file(tmp_path, detector, ledger, 1)
    beside = WrittenLedger(tmp_path)
    assert beside.found == []
    ledger.close()
    after = WrittenLedger(tmp_path)
    assert [found.path for found in after.found] == [made.path]
    assert after.found[0].keys == [batch.key(event) for event in batch.events]
    assert after.found[0].n_peaks == [event.n_peaks for event in batch.events]
    assert WrittenLedger(tmp_path).found == []


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    ledger = WrittenLedger(tmp_path)
    ledger.record([("r", "b", 0, 0)])
    ledger.close()
    path = next((tmp_path / "ledger").glob("*.jsonl"))
    with path.open("a") as stream:
        stream.write('\n{"file": null, "events": [["r", "b", [[1,')
    again = WrittenLedger(tmp_path)
    assert ("r", "b", 0, 0) in again
    assert ("r", "b", 1, 0) not in again


def throughput(workers: WorkerCount, rate, seconds: float, begin: float = 0.0) -> float:
    """Events done in simulated time, if `rate(n)` events per second are done by n workers."""
    now, done, step = begin, 0.0, 0.05
    while now < begin + seconds:
        current = workers.update(now, saturated=True)
        events = rate(current) * step
        done += events
        for _ in range(max(1, round(events))):
            workers.finished(events / max(1, round(events)))
        now += step
    return done


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda n: 100.0 * min(n, 4), lambda n: 400.0 * min(n, 4) ** 0.5),
        # Workers take the processor from the writer: the best number is in the middle.
        (lambda n: 400.0 - 12.0 * abs(n - 6), lambda n: 300.0 - 20.0 * abs(n - 2)),
        (lambda n: 30.0 * n, lambda n: 240.0 - 8.0 * n),
    ],
)
def test_the_number_of_workers_is_within_five_percent_of_the_best_on_a_step_load(before, after):
    workers = WorkerCount(16)
    seconds = 300.0
    reached = throughput(workers, before, seconds) + throughput(workers, after, seconds, seconds)
    best = max(seconds * (before(n) + after(n)) for n in range(1, 17))  # one fixed number for both
    assert reached >= 0.95 * best


def test_without_adaption_the_number_stays():
    workers = WorkerCount(3, adaptive=False)
    throughput(workers, lambda n: 100.0 / n, 20.0)
    assert workers.current == 3
