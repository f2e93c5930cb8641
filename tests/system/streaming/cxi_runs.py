"""Running ``cxi-writer`` in tests, and counting what came of it."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import yaml


def config(tmp_path: Path, name: str, /, **sections) -> dict:
    """A configuration for small items; sections are merged."""
    made = {
        "queue": {"name": name, "wait_timeout": 60},
        "processing": {"num_cpu_workers": 2, "events_per_task": 4},
        "geometry": {"geom_file": str(tmp_path / "d.geom")},
        "output": {"output_dir": str(tmp_path / "out"), "buffer_size": 16, "max_file_seconds": 2},
        "system": {"health_port": 0, "progress_interval": 1000},
    }
    for section, values in sections.items():
        made.setdefault(section, {}).update(values)
    return made


def rows(folder: Path) -> Counter:
    """Events in complete files, and how often each is there."""
    found = Counter()
    for path in folder.rglob("*.cxi"):
        found.update(_rows_of(path))
    return found


@functools.cache
def _rows_of(path: Path) -> list[tuple[str, int]]:
    """Events of a complete file, read once: tests ask many times a second."""
    with h5py.File(path, locking=False) as file:
        names = file["/entry_1/batch_id"].asstr()[()]
        return list(zip(names, file["/entry_1/event_id"][()].tolist(), strict=True))


def ray_processes(part: str) -> list[int]:
    """Ray workers of this session's cluster whose title has this part; never another's."""
    titles, parents = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(place.name)] = (place / "cmdline").read_bytes().decode(errors="replace")
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(place.name)] = int(fields[1])

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [
        pid
        for pid, title in titles.items()
        if title.startswith("ray::") and part in title and is_ours(pid)
    ]


def kill(pid: int) -> None:
    """End a process as the kernel does when memory runs out."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def reference_shard():
    """The class of the queue actors that the reference pipeline makes: no leases, no end."""

    class ReferenceShard:
        def __init__(self, maxsize):
            self.items, self.maxsize = [], maxsize

        def put(self, item):
            if len(self.items) >= self.maxsize:
                return False
            self.items.append(item)
            return True

        def get(self):
            return self.items.pop(0) if self.items else None

        def size(self):
            return len(self.items)

        def is_empty(self):
            return not self.items

        def is_full(self):
            return len(self.items) >= self.maxsize

    return ReferenceShard


class Command:
    """``cxi-writer`` as a process of its own."""

    def __init__(self, tmp_path: Path, address: str, settings: dict) -> None:
        settings = {**settings, "ray": {"address": address}}
        path = tmp_path / "writer.yaml"
        path.write_text(yaml.safe_dump(settings))
        self._log = (tmp_path / "writer.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "beamline.cli.cxi_writer", "--config", str(path)],
            stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self.log = tmp_path / "writer.log"

    def ready(self) -> dict[str, str]:
        """Wait for its READY line."""
        line = self.process.stdout.readline()
        assert line.startswith("READY "), self.log.read_text()
        return dict(part.split("=", 1) for part in line.split()[1:])

    def wait(self, seconds: float = 250.0) -> int:
        """Wait for its end; return the exit status."""
        status = self.process.wait(seconds)
        self.process.stdout.close()
        self._log.close()
        return status

    def stop(self) -> None:
        """Make sure that it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.wait()


def until(condition, seconds: float = 120.0) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.05)
