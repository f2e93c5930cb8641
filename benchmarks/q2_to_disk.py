"""From Q2 to disk: events per second through queue, peak search and CXI files, and the bounds.

    python benchmarks/q2_to_disk.py [--workers 1 2] [--events 160] [--nodes 1] [--directory DIR]

Events are 16 panels of 352 × 384 float32 with two-class logits: 26 MB each through the object
store. A producer in a process of its own puts distinct items at full speed while the writer works.
In the same run and on the same directory, the bounds are measured: what a process that only reads
logits and images out of the object store and writes the images reaches, and what the disk takes.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np

PANELS, HEIGHT, WIDTH, PAD = 16, 352, 384, 0
SPOTS, BATCH = 75, 4
NAME, NAMESPACE = "bench_q2", "bench"
EVENT_BYTES = PANELS * HEIGHT * WIDTH * 4


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


def produce(address: str, events: int) -> None:
    """Put items into the queue; run in a process of its own."""
    import ray

    from beamline.streaming.items import PipelineOutput, PreprocessingMetadata
    from beamline.streaming.queue import ShardedQueueManager

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    queue = ShardedQueueManager(NAME, None, create=False)
    queue.begin()
    sources = [batch(seed) for seed in range(2)]
    print("READY", flush=True)
    sys.stdin.readline()
    shape = (BATCH * PANELS, 1, HEIGHT, WIDTH)
    for number in range(events // BATCH):
        logits, images = sources[number % len(sources)]
        item = PipelineOutput(
            predictions_ref=ray.put(logits),
            metadata={"photon_wavelength": 1.3},
            batch_id=f"b{number:06d}",
            original_image_ref=ray.put(images),
            preprocessing_metadata=PreprocessingMetadata((BATCH, PANELS, HEIGHT, WIDTH), shape),
        )
        del logits, images
        if not queue.put_wait(item, 300):
            raise SystemExit("the queue stayed full")
    queue.end()


def memory() -> dict[str, float]:
    """Return resident memory of our processes that is not shared, MB."""
    found: dict[str, float] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "ray::" not in title:
                continue
            fields = dict(
                line.split(":", 1) for line in (place / "status").read_text().splitlines()
            )
            used = int(fields["RssAnon"].split()[0]) / 1024
        except (OSError, KeyError, ValueError):
            continue
        for part in ("ray::CXIFileWriter", "ray::process_samples", "ray::bench_q2", "_shard_"):
            if part in title:
                found[part.removeprefix("ray::")] = max(found.get(part, 0.0), used)
    return found


def run(address: str, directory: Path, events: int, workers: int, adaptive: bool) -> dict:
    from beamline.streaming.coordinator import run_cpu_postprocessing_pipeline
    from beamline.streaming.health import WriterCounts
    from beamline.streaming.queue import ShardedQueueManager

    # Half of the object store: what is fuller than 80 % Ray spills to disk.
    queue = ShardedQueueManager(
        NAME, 2, 12, namespace=NAMESPACE, memory_bytes=3 * 10**9, spill_bytes=4 * 10**9
    )
    producer = subprocess.Popen(
        [sys.executable, __file__, "--produce", address, "--events", str(events)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    producer.stdout.readline()
    counts = WriterCounts()
    times: list[tuple[float, int]] = []
    peak: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            times.append((time.perf_counter(), counts.frames))
            for name, used in memory().items():
                peak[name] = max(peak.get(name, 0.0), used)

    threading.Thread(target=watch, daemon=True).start()
    begun = time.perf_counter()
    producer.stdin.write("go\n")
    producer.stdin.flush()
    done = run_cpu_postprocessing_pipeline(
        {
            "ray": {"namespace": NAMESPACE},
            "queue": {"name": NAME},
            "processing": {
                "num_cpu_workers": workers, "adaptive_workers": adaptive, "events_per_task": BATCH,
                "max_unwritten_mb": 2000,
            },
            "geometry": {"geom_file": geometry(directory / "d.geom")},
            "output": {"output_dir": directory / "out", "buffer_size": 24, "max_file_seconds": 5},
            "system": {"health_port": None},
        },
        counts=counts,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    over.set()
    producer.wait(60)
    queue.delete()
    # The first events wait for worker processes to start: the rate is from the tenth part on.
    first = next(i for i, (_, n) in enumerate(times) if n >= events // 10)
    start_at, start_n = times[first]
    steady = (events - start_n) / (begun + seconds - start_at)
    written = 0
    for path in (directory / "out").rglob("*.cxi"):
        with h5py.File(path) as file:
            written += len(file["/entry_1/event_id"])
    assert written == done["written"] == events - done["filtered"], done
    peak["this process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "steady": steady, "lost": events - written, "memory": peak}


def bounds(directory: Path, events: int) -> tuple[float, float]:
    """Return events per second of reading and writing alone, and bytes per second of the disk."""
    import ray

    items = [tuple(ray.put(array) for array in batch(seed)) for seed in range(2)]
    path = directory / "bound.h5"
    begun = time.perf_counter()
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        shape = (events, PANELS * HEIGHT, WIDTH)
        data = file.create_dataset("data", shape, "f4", chunks=(1, *shape[1:]))
        for number in range(events // BATCH):
            # A producer copies as much into the store.
            logits, images = ray.get(list(items[number % 2]))
            copies = [ray.put(logits), ray.put(images)]
            logits, images = ray.get(copies)
            logits[:, 1].max()
            for event in range(BATCH):
                frame = images[event * PANELS : (event + 1) * PANELS].reshape(shape[1:])
                data.id.write_direct_chunk((number * BATCH + event, 0, 0), frame)
        file.flush()
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    whole = events / (time.perf_counter() - begun)
    path.unlink()
    block = np.random.default_rng(0).bytes(EVENT_BYTES)
    begun = time.perf_counter()
    with path.open("wb") as stream:
        for _ in range(events):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    disk = events * EVENT_BYTES / (time.perf_counter() - begun)
    path.unlink()
    return whole, disk


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--produce", metavar="ADDRESS")
    parser.add_argument("--events", type=int, default=160)
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
    store = 5_000_000_000 // options.nodes
    for _ in range(options.nodes):
        cluster.add_node(
            num_cpus=max(1, 2 // options.nodes), object_store_memory=store, include_dashboard=False
        )
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            whole, disk = bounds(Path(folder), options.events)
        print(f"bound, one process (store, read, raw chunks, fsync): {whole:.1f} events/s")
        print(f"bound, disk: {disk / 1e6:.0f} MB/s = {disk / EVENT_BYTES:.1f} events/s")
        for workers in options.workers:
            with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                made = run(cluster.address, Path(folder), options.events, workers, options.adaptive)
            used = ", ".join(f"{name} {mb:.0f} MB" for name, mb in made["memory"].items())
            print(
                f"{options.nodes} node(s), {workers} worker(s): {made['steady']:.1f} events/s, "
                f"{options.events / made['seconds']:.1f} with start and end, {made['lost']} lost; "
                f"memory: {used}",
                flush=True,
            )
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
