"""From Q2 to disk: events per second through queue, peak search and CXI files, and the bound.

    python benchmarks/q2_to_disk.py [--workers 1 2 4] [--events 400] [--nodes 1] [--directory DIR]

Events are 16 panels of 352 × 384 float32 with two-class logits: 26 MB each through the object
store. A producer in a process of its own puts distinct items at full speed while the writer works.

The bound, measured in the same run and on the same directory, is the work that can't be left out,
in one process after the other on the same machine: the producer's copy into the object store,
the search for peaks in the arrays as they lie there, and the CXI files. Its processor time per
event over the number of cores is the fastest that any arrangement of processes could be. Processor
time of all processes per event is measured too, in the second half of the stream, when every worker
has started and has mapped the object store: on a machine that does other work as well, it tells
more than the rate.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np

PANELS, HEIGHT, WIDTH = 16, 352, 384
SPOTS, BATCH = 75, 4
NAME, NAMESPACE = "bench_q2", "bench"
EVENT_BYTES = PANELS * HEIGHT * WIDTH * 4
STORE = 4_000_000_000
CORES = len(os.sched_getaffinity(0))
#: Part of the work, by what is in the command line of a process.
PARTS = {
    "ray::CXIFileWriter": "file writer",
    "ray::process_samples": "search",
    "ShardActor": "queue actors",
    "--produce": "producer",
    "raylet/raylet": "Ray",
    "gcs_server": "Ray",
}


def geometry(path: Path) -> Path:
    lines = ["photon_energy = 9500", "clen = 0.1", "adu_per_photon = 1", "res = 10000",
             "data = /entry_1/data_1/data", "dim0 = %", "dim1 = ss", "dim2 = fs"]  # fmt: skip
    for p in range(PANELS):
        lines += [
            f"p{p}/min_fs = 0", f"p{p}/max_fs = {WIDTH - 1}", f"p{p}/min_ss = {p * HEIGHT}",
            f"p{p}/max_ss = {(p + 1) * HEIGHT - 1}", f"p{p}/corner_x = {400 * (p % 4) - 800}",
            f"p{p}/corner_y = {400 * (p // 4) - 800}", f"p{p}/fs = +1.0x +0.0y",
            f"p{p}/ss = +0.0x +1.0y",
        ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def batch(seed: int):
    """Return logits and images of one item."""
    rng = np.random.default_rng(seed)
    images = rng.poisson(8.0, (BATCH * PANELS, 1, HEIGHT, WIDTH)).astype(np.float32)
    logits = np.zeros((BATCH * PANELS, 2, HEIGHT, WIDTH), np.float32)
    logits[:, 0] = 1.0
    for event in range(BATCH):
        for _ in range(SPOTS):
            p = event * PANELS + rng.integers(PANELS)
            y, x = rng.integers(5, HEIGHT - 5), rng.integers(5, WIDTH - 5)
            images[p, 0, y - 1 : y + 2, x - 1 : x + 2] += rng.poisson(300, (3, 3))
            logits[p, 1, y - 1 : y + 2, x - 1 : x + 2] = 5.0
    return logits, images


def made(number: int, logits, images):
    """Return an item of Q2, its arrays copied into the object store."""
    import ray

    from beamline.streaming.items import PipelineOutput, PreprocessingMetadata

    shape = (BATCH * PANELS, 1, HEIGHT, WIDTH)
    return PipelineOutput(
        predictions_ref=ray.put(logits),
        metadata={"photon_wavelength": 1.3},
        batch_id=f"b{number:06d}",
        original_image_ref=ray.put(images),
        preprocessing_metadata=PreprocessingMetadata((BATCH, PANELS, HEIGHT, WIDTH), shape),
    )


def produce(address: str, events: int) -> None:
    """Put items into the queue; run in a process of its own."""
    import ray

    from beamline.streaming.queue import ShardedQueueManager

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    queue = ShardedQueueManager(NAME, None, create=False)
    queue.begin()
    sources = [batch(seed) for seed in range(2)]
    print("READY", flush=True)
    sys.stdin.readline()
    for number in range(events // BATCH):
        if not queue.put_wait(made(number, *sources[number % len(sources)]), 300):
            raise SystemExit("the queue stayed full")
    queue.end()


class Watch:
    """Processor time and memory of all processes of the cluster, sampled by a thread."""

    def __init__(self, events) -> None:
        self._events = events
        self.samples: list[tuple[float, int, dict[int, float]]] = []
        self.memory: dict[str, float] = defaultdict(float)
        self._parts: dict[int, str] = {}
        self._over = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def per_event(self, first: int) -> tuple[float, dict[str, float]]:
        """Return seconds per event, and processor time of each part, from this sample on."""
        begun, number, before = self.samples[first]
        end, last, _ = self.samples[-1]
        used: dict[str, float] = defaultdict(float)
        seen: dict[int, float] = {}
        for _, _, times in self.samples[first:]:
            seen.update(times)
        for pid, seconds in seen.items():
            used[self._parts.get(pid, "")] += seconds - before.get(pid, 0.0)
        used.pop("", None)
        return (end - begun) / (last - number), {k: v / (last - number) for k, v in used.items()}

    def _run(self) -> None:
        while not self._over.wait(0.5):
            self._look()

    def _look(self) -> None:
        times = {}
        tick = os.sysconf("SC_CLK_TCK")
        for place in Path("/proc").glob("[0-9]*"):
            pid = int(place.name)
            try:
                title = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                part = next((name for key, name in PARTS.items() if key in title), "")
                part = "coordinator" if pid == os.getpid() else part
                if not part and "ray::" not in title:
                    continue
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                status = (place / "status").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            times[pid] = (int(fields[11]) + int(fields[12])) / tick
            if part:
                self._parts[pid] = part
                used = int(status.partition("RssAnon:")[2].split()[0]) / 1024
                self.memory[part] = max(self.memory[part], used)
        self.samples.append((time.perf_counter(), self._events(), times))


def run(address: str, directory: Path, events: int, workers: int, adaptive: bool) -> dict:
    from beamline.streaming.coordinator import run_cpu_postprocessing_pipeline
    from beamline.streaming.health import WriterCounts
    from beamline.streaming.queue import ShardedQueueManager

    # Leased items count until they are on disk. 20 are half of the object store; what is fuller
    # than 80 % Ray spills to disk.
    queue = ShardedQueueManager(
        NAME, 2, 10, namespace=NAMESPACE, memory_bytes=3 * 10**9, spill_bytes=4 * 10**9
    )
    producer = subprocess.Popen(
        [sys.executable, __file__, "--produce", address, "--events", str(events)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    producer.stdout.readline()
    counts = WriterCounts()
    watch = Watch(lambda: counts.frames)
    begun = time.perf_counter()
    producer.stdin.write("go\n")
    producer.stdin.flush()
    try:
        done = run_cpu_postprocessing_pipeline(
            {
                "ray": {"namespace": NAMESPACE},
                "queue": {"name": NAME},
                "processing": {
                    "num_cpu_workers": workers,
                    "adaptive_workers": adaptive,
                    "events_per_task": BATCH,
                },
                "geometry": {"geom_file": geometry(directory / "d.geom")},
                "output": {"output_dir": directory / "out", "buffer_size": 24},
                "system": {"health_port": None},
            },
            counts=counts,
        )
    finally:
        watch.stop()
    seconds = time.perf_counter() - begun
    producer.wait(60)
    queue.delete()
    written = 0
    for path in (directory / "out").rglob("*.cxi"):
        with h5py.File(path) as file:
            written += len(file["/entry_1/event_id"])
    assert written == done["written"] == events - done["filtered"], done
    first = next(i for i, (_, n, _) in enumerate(watch.samples) if n >= events / 2)
    per_event, used = watch.per_event(first)
    return {
        "rate": 1 / per_event,
        "whole": events / seconds,
        "lost": events - written,
        "memory": watch.memory,
        "used": used,
    }


def bound(directory: Path, events: int) -> dict[str, float]:
    """Return processor time of the parts that can't be left out, s per event."""
    import ray

    from beamline.crystallography import CXIEvent, CXIFile, find_event_peaks, read_geometry

    detector = read_geometry(geometry(directory / "d.geom"))
    sources = [batch(seed) for seed in range(2)]
    rounds = []
    number = 0
    for _ in range(3):
        used: dict[str, float] = defaultdict(float)
        path = directory / f"bound{len(rounds)}.cxi"
        file = CXIFile(
            path, detector=detector, dtype=np.float32, max_num_peak=2048, block_size=BATCH
        )
        for number in range(events // BATCH):
            begun = time.process_time()
            item = made(number, *sources[number % 2])
            used["copy into the object store"] += time.process_time() - begun
            logits, images = ray.get([item.predictions_ref, item.original_image_ref])
            stacks = images.reshape(BATCH, PANELS, HEIGHT, WIDTH)
            begun = time.process_time()
            found = [
                find_event_peaks(logits[i * PANELS : (i + 1) * PANELS], stacks[i])
                for i in range(BATCH)
            ]
            used["search"] += time.process_time() - begun
            begun = time.process_time()
            for i, peaks in enumerate(found):
                event = CXIEvent(
                    image=stacks[i], peaks=peaks, photon_energy_eV=9500.0, time_ns=0, run_uid="",
                    batch_id=item.batch_id, event_id=i, distance_m=detector.distance_m,
                )  # fmt: skip
                file.append(event)
            file.flush()
            used["CXI file"] += time.process_time() - begun
            del logits, images, stacks, item
        begun = time.process_time()
        file.close(end_time="", exit_status="success").unlink()
        used["CXI file"] += time.process_time() - begun
        rounds.append({part: seconds / (number + 1) / BATCH for part, seconds in used.items()})
    # The first round compiles, and touches memory for the first time.
    return min(rounds[1:], key=lambda one: sum(one.values()))


def disk_speed(directory: Path, events: int) -> float:
    """Return what the disk takes, bytes/s."""
    path = directory / "block"
    block = np.random.default_rng(0).bytes(EVENT_BYTES)
    begun = time.perf_counter()
    with path.open("wb") as stream:
        for _ in range(events):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    speed = events * EVENT_BYTES / (time.perf_counter() - begun)
    path.unlink()
    return speed


def touch_store() -> None:
    """Have the machine hand over the memory of the store, as a stream does in its first minutes."""
    import ray

    block = np.ones(50_000_000, np.uint8)
    held = [ray.put(block) for _ in range(int(0.7 * STORE / block.nbytes))]
    del held


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--produce", metavar="ADDRESS")
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    if options.produce:
        produce(options.produce, options.events)
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for node in range(options.nodes):
        # Ray's workers are nice to other processes of the machine (15): a busy one would measure
        # that. Here they are as nice as this program.
        head = {} if node else {"_system_config": {"worker_niceness": os.nice(0)}}
        cluster.add_node(
            num_cpus=max(1, 4 // options.nodes),
            object_store_memory=STORE // options.nodes,
            include_dashboard=False,
            **head,
        )
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    try:
        touch_store()
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            parts = bound(Path(folder), 40)
            # As much as a run writes: a virtual machine takes long to hand over memory that nobody
            # had before, to the page cache too.
            disk_speed(Path(folder), options.events)
            disk = disk_speed(Path(folder), 40)
        least = sum(parts.values())
        print(
            "bound:", ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in parts.items()),
            f"= {1e3 * least:.1f} ms: {CORES / least:.1f} events/s on {CORES} cores; disk "
            f"{disk / 1e6:.0f} MB/s = {disk / EVENT_BYTES:.1f} events/s; "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )  # fmt: skip
        for workers in options.workers:
            with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                done = run(cluster.address, Path(folder), options.events, workers, options.adaptive)
            total = sum(done["used"].values())
            print(
                f"{options.nodes} node(s), {workers} worker(s): {done['rate']:.1f} events/s "
                f"({done['whole']:.1f} with start and end), {done['lost']} lost; processor time "
                f"{1e3 * total:.1f} ms = bound x {total / least:.2f}:",
                ", ".join(f"{name} {1e3 * s:.1f}" for name, s in done["used"].items()),
                "; private memory",
                ", ".join(f"{name} {mb:.0f} MB" for name, mb in done["memory"].items()),
                f"; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
