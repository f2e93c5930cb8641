"""Seconds from the start of ``cxi-writer`` to its first event and its first file.

    python benchmarks/cxi_writer_start.py [--rounds 3]

Once in a Ray cluster that runs, once with a cluster of its own that it starts and ends; the items
(4 events of 16 × 352 × 384 with logits each) are in the queue before, in the second case on disk.
Beside it, what Ray takes by itself in the same run: a program that connects, or starts a cluster,
and has one task done.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml
from q2_to_disk import batch, geometry, made

NAME, NAMESPACE, ITEMS = "start_q2", "start", 4
RAY_ALONE = """
import sys, ray
ray.init(address=sys.argv[1], num_cpus=2 if sys.argv[1] == "local" else None,
         include_dashboard=False, log_to_driver=False)
ray.get(ray.remote(lambda: None).remote())
"""


def fill(directory: Path | None) -> None:
    from beamline.streaming.queue import ShardedQueueManager

    queue = ShardedQueueManager(NAME, 2, 10, namespace=NAMESPACE, directory=directory)
    arrays = batch(1)
    for number in range(ITEMS):
        assert queue.put_wait(made(number, *arrays), 60)
    queue.end()


def writer(address: str, folder: Path, spill: Path | None) -> tuple[float, float, float]:
    """Return seconds to the READY line, the first event, the first file."""
    config = {
        "ray": {"address": address, "namespace": NAMESPACE, "num_cpus": 2, "object_store_mb": 800},
        "queue": {"name": NAME},
        "processing": {"num_cpu_workers": 2, "events_per_task": 4},
        "geometry": {"geom_file": f"{geometry(folder / 'd.geom')}"},
        "output": {"output_dir": f"{folder / 'out'}", "buffer_size": 4},
        "system": {"health_port": 0},
    }
    if spill is not None:
        config["queue"] |= {"create": True, "num_shards": 2, "spill_directory": f"{spill}"}
    path = folder / "writer.yaml"
    path.write_text(yaml.safe_dump(config))
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "beamline.cli.cxi_writer", "--config", f"{path}"],
        stdout=subprocess.PIPE, stderr=(folder / "log").open("w"), text=True,
    )  # fmt: skip
    ready = process.stdout.readline().split()
    times = {"ready": time.perf_counter() - begun}
    url = next(word for word in ready if word.startswith("health=")).partition("=")[2]
    while len(times) < 3 and process.poll() is None:
        text = urllib.request.urlopen(url, timeout=60).read().decode()
        for name in ("frames", "files"):
            line = next(x for x in text.splitlines() if x.startswith(f"cxi_writer_{name}_total "))
            if float(line.split()[1]):
                times.setdefault(name, time.perf_counter() - begun)
        time.sleep(0.02)
    assert process.wait(120) == 0, (folder / "log").read_text()
    return times["ready"], times["frames"], times.get("files", time.perf_counter() - begun)


def ray_alone(address: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", RAY_ALONE, address], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    print("| cluster | Ray alone | READY | first event | first file | load |")
    print("|" + "---|" * 6)
    for own in (False, True):
        rows = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                spill = folder / "queue" if own else None
                context = ray.init(
                    address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                    object_store_memory=800_000_000, namespace=NAMESPACE,
                    _system_config={"worker_niceness": os.nice(0)},
                )  # fmt: skip
                try:
                    fill(spill)
                    address = context.address_info["address"]
                    if not own:
                        alone = ray_alone(address)
                        rows.append((alone, *writer(address, folder, None)))
                finally:
                    ray.shutdown()
                if own:
                    rows.append((ray_alone("local"), *writer("local", folder, spill)))
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(
            "| its own |" if own else "| runs |",
            " | ".join(f"{seconds:.1f} s" for seconds in medians),
            f"| {os.getloadavg()[0]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
