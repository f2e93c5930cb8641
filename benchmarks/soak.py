"""Memory, open files and queue depth of a long stream: ``simulate-q2``, Q2 and ``cxi-writer``.

    python benchmarks/soak.py [--minutes 30] [--rate EVENTS/S] [--share 0.5] [--output DIR]

A Ray cluster of its own, a queue with its items on disk, and both commands in processes of their
own, as in real use. What the writer manages is measured first, by a stream without a limit; then a
stream of `share` of that (or of `rate`) runs for so many minutes. Every ten seconds all processes
are looked at: resident memory that is not shared, and open files; and of the health endpoint depth
and pending events; and the size of the queue's log. Complete files are read, counted and removed.
The samples go to ``soak.csv`` in the output directory and, with matplotlib, to ``soak.png``.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import yaml

NAMESPACE, NAME, BATCH = "soak", "soak_q2", 8
EVERY = 10.0
#: Part of the work, by what is in the command line of a process.
PARTS = {
    "ray::CXIFileWriter": "file writer",
    "ray::process_samples": "search",
    "ShardActor": "queue actors",
    "simulate-q2": "producer",
    "beamline.cli.cxi_writer": "coordinator",
    "raylet/raylet": "raylet",
    "gcs_server": "gcs",
}
SEEN: dict[int, str] = {}


def simulate(address: str, folder: Path, events: int, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable, "-m", "beamline", "simulate-q2", "--address", address,
            "--namespace", NAMESPACE, "--queue", NAME, "--shards", "2", "--maxsize", "100",
            "--batch", f"{BATCH}", "--pixels", "128", "--events", f"{events}",
            "--geometry", f"{folder / 'd.geom'}", *more,
        ],
        stdout=subprocess.DEVNULL, stderr=(folder / "producer.log").open("a"),
    )  # fmt: skip


class Stream:
    """The writer, what it says of itself, and what is in its files."""

    def __init__(self, address: str, folder: Path) -> None:
        config = {
            "ray": {"address": address, "namespace": NAMESPACE},
            "queue": {"name": NAME},
            "processing": {"num_cpu_workers": 2},
            "peak_finding": {"min_num_peak": 1},
            "geometry": {"geom_file": f"{folder / 'd.geom'}"},
            "output": {"output_dir": f"{folder / 'out'}", "buffer_size": 400},
            "system": {"health_port": 0, "progress_interval": 10_000_000},
        }
        path = folder / "writer.yaml"
        path.write_text(yaml.safe_dump(config))
        self._out = folder / "out"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "beamline.cli.cxi_writer", "--config", f"{path}"],
            stdout=subprocess.PIPE, stderr=(folder / "writer.log").open("a"), text=True,
        )  # fmt: skip
        ready = self.process.stdout.readline().split()
        self._url = next(word for word in ready if word.startswith("health=")).partition("=")[2]
        self.found: Counter = Counter()

    def health(self) -> dict[str, float]:
        text = urllib.request.urlopen(self._url, timeout=60).read().decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {
            name.removeprefix("cxi_writer_").removesuffix("_total"): float(value)
            for name, value in lines
            if "{" not in name
        }

    def drain(self) -> None:
        """Wait until everything that was put is in files."""
        while (now := self.health())["queue_depth"] or now["pending"]:
            time.sleep(0.5)

    def stop(self) -> int:
        """End the writer; return its exit status."""
        self.drain()
        self.process.terminate()
        return self.process.wait(120)

    def collect(self) -> None:
        """Count the events of complete files, and remove these."""
        for path in self._out.rglob("*.cxi"):
            with h5py.File(path, locking=False) as file:
                names = file["/entry_1/batch_id"][()].tolist()
                self.found.update(zip(names, file["/entry_1/event_id"][()].tolist(), strict=True))
            path.unlink()


def processes() -> dict[int, tuple[str, float, int]]:
    """Return part, private memory (MB) and number of open files of our processes."""
    parents, titles = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue
        parents[int(place.name)] = int(fields[1])
    found = {}
    for pid, title in titles.items():
        # Between tasks a worker has another title.
        part = next((name for key, name in PARTS.items() if key in title), SEEN.get(pid))
        above = pid
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if part is None or above != os.getpid():
            continue
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
        SEEN[pid] = part
        found[pid] = part, int(status.partition("RssAnon:")[2].split()[0]) / 1024, files
    return found


def sample(stream: Stream, log: Path, begun: float) -> dict[str, float]:
    row: dict[str, float] = defaultdict(float)
    row["seconds"] = round(time.monotonic() - begun, 1)
    health = stream.health()
    for name in ("queue_depth", "pending", "written", "lost", "files"):
        row[name] = health[name]
    row["log_mb"] = round(sum(p.stat().st_size for p in log.rglob("*") if p.is_file()) / 1e6, 1)
    row["load"] = os.getloadavg()[0]
    for part in dict.fromkeys(PARTS.values()):
        row[f"{part} MB"], row[f"{part} files"] = 0.0, 0
    for part, megabytes, files in processes().values():
        row[f"{part} MB"] = round(row[f"{part} MB"] + megabytes, 1)
        row[f"{part} files"] += files
    return dict(row)


def full_speed(stream: Stream, address: str, folder: Path, seconds: float) -> float:
    """Return events per second that the writer manages."""
    producer = simulate(address, folder, 10**7, "--no-end", "--run", "fast", "--seed", "2")
    while not stream.health()["written"]:
        time.sleep(0.5)
        assert producer.poll() is None, "the producer ended"
    before, begun = stream.health()["frames"], time.monotonic()
    time.sleep(seconds)
    rate = (stream.health()["frames"] - before) / (time.monotonic() - begun)
    producer.terminate()
    producer.wait(120)
    stream.drain()
    return rate


def report(rows: list[dict[str, float]]) -> None:
    """Print the second quarter of the time beside the last one."""
    quarters = len(rows) // 4
    second, last = rows[quarters : 2 * quarters], rows[-quarters:]
    print("| | second quarter | last quarter |\n|---|---|---|")
    for name in rows[0]:
        if name in ("seconds", "written", "files"):
            continue
        medians = [statistics.median(row[name] for row in part) for part in (second, last)]
        print(f"| {name} |", " | ".join(f"{m:,.1f}" for m in medians), "|")


def plot(rows: list[dict[str, float]], path: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    minutes = [row["seconds"] / 60 for row in rows]
    parts = list(dict.fromkeys(PARTS.values()))
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(8, 8), layout="constrained")
    for part in parts:
        axes[0].plot(minutes, [row[f"{part} MB"] for row in rows], label=part)
        axes[1].plot(minutes, [row[f"{part} files"] for row in rows], label=part)
    for name, label in (("queue_depth", "items in the queue"), ("pending", "events pending")):
        axes[2].plot(minutes, [row[name] for row in rows], label=label)
    axes[2].plot(minutes, [row["log_mb"] for row in rows], label="log of the queue, MB")
    for axis, label in zip(axes, ("private memory, MB", "open files", ""), strict=True):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes[2].set_xlabel("minutes")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rate", type=float, help="events per second, instead of a share")
    parser.add_argument("--output", type=Path, default=Path("soak"))
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    from beamline.streaming.queue import ShardedQueueManager

    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as name:
        folder = Path(name)
        context = ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=400_000_000,
            namespace=NAMESPACE, log_to_driver=False,
        )  # fmt: skip
        address = context.address_info["address"]
        ShardedQueueManager(NAME, 2, 100, directory=folder / "queue")
        # The first stream also writes the geometry, which the writer needs to start.
        assert simulate(address, folder, BATCH, "--no-end", "--run", "first").wait(120) == 0
        stream = Stream(address, folder)
        try:
            rate = options.rate
            if rate is None:
                fastest = full_speed(stream, address, folder, 30)
                rate = options.share * fastest
                print(f"at full speed {fastest:.1f} events/s; now {rate:.1f}", flush=True)
            stream.collect()
            events = int(rate * 60 * options.minutes) // BATCH * BATCH
            before = stream.found.total()
            producer = simulate(address, folder, events, "--no-end", "--rate", f"{rate}")
            begun, rows = time.monotonic(), []
            with (options.output / "soak.csv").open("w", newline="") as table:
                while producer.poll() is None:
                    stream.collect()
                    rows.append(sample(stream, folder / "queue", begun))
                    if len(rows) == 1:
                        writer = csv.DictWriter(table, rows[0])
                        writer.writeheader()
                    writer.writerow(rows[-1])
                    table.flush()
                    time.sleep(EVERY)
            seconds = time.monotonic() - begun
            status = stream.stop()
            stream.collect()
            written = stream.found.total() - before
            print(
                f"{events} events in {seconds / 60:.1f} minutes ({events / seconds:.1f}/s): "
                f"{written} in files, {max(stream.found.values()) - 1} twice; cxi-writer ended "
                f"with status {status}"
            )
            report(rows)
            plot(rows, options.output / "soak.png")
        finally:
            stream.process.kill()
            stream.process.wait()
            ray.shutdown()


if __name__ == "__main__":
    main()
