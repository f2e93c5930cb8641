"""Requests per second of the device server, beside a bare epoll echo server.

Server and load generator have a core each where there are two. The last part has a hostile client
on the generator's core: it takes processor time from the generator whatever it does, so it turns to
a server that only reads (on the generator's core as well), to the echo server and to the device
server while ten clients of the same two are timed. Run with ``python benchmarks/device_server.py``
(needs a C compiler, on Linux); where others work on the same machine, after ``chrt -r 1``, which
lets nobody else run during the seconds that are timed.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from ioc.simulator import start_device_server

SECONDS = 1.0
LINE = "GET:BL02:MONO:ENERGY"
CORES = sorted(os.sched_getaffinity(0))


#: How long the hostile client acts before and after the others are timed (s).
BEFORE, AFTER = 0.1, 0.2
#: Short ones, of which the best counts: a busy machine troubles each of them differently.
ROUNDS, SHORT = 5, 0.3


def start(program: Path, core: int, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [program, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip


def output(process: subprocess.Popen) -> list[float]:
    text, _ = process.communicate(timeout=60)
    if process.returncode:
        raise RuntimeError(f"{process.args} failed with {process.returncode}.")
    return [float(word) for word in text.split()]


def timed(program: Path, port: int, clients: int, seconds: float = SECONDS) -> list[float]:
    return output(start(program, CORES[-1], "load", port, clients, seconds, LINE))


def shown(clients: int, rate: float, median: float, late: float) -> str:
    return f"{clients:4d} clients: {rate:8.0f} /s, median {median:7.1f} µs, 99 % {late:7.1f} µs"


def beside_hostile(program: Path, ports: dict[str, int]) -> None:
    """Time ten clients of both servers: alone, beside one that harasses the sink, or their own."""
    best: dict[tuple[str, str], list[float]] = {}
    harassed = []
    for _ in range(ROUNDS):
        for name in ("echo", "server"):
            for victim in ("nobody", "sink", name):
                hostile = None
                if victim != "nobody":
                    seconds = BEFORE + SHORT + AFTER
                    hostile = start(program, CORES[-1], "hostile", ports[victim], seconds)
                    time.sleep(BEFORE)
                found = timed(program, ports[name], 10, SHORT)
                if hostile is not None:
                    harassed += output(hostile)
                at = name, "its own" if victim == name else victim
                best[at] = min(found, best.get(at, found), key=lambda one: one[-1])
    print(f"hostile: {min(harassed):.0f} to {max(harassed):.0f} connections/s, reset in mid-line")
    for (name, victim), found in best.items():
        print(f"{name:6s} {shown(10, *found)}, hostile to {victim}")
    for name in ("echo", "server"):
        alone, sink, own = (best[name, victim][-1] for victim in ("nobody", "sink", "its own"))
        print(
            f"{name:6s} 99 %, of alone: {sink / alone:.2f} beside one hostile to the sink, "
            f"{own / alone:.2f} beside one hostile to it; its own part is {own / sink:.2f}"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "line_load"
        source = Path(__file__).with_name("line_load.c")
        subprocess.run(["cc", "-O2", source, "-o", program], check=True)
        others = {
            "echo": start(program, CORES[0], "echo"),
            "sink": start(program, CORES[-1], "sink"),
        }
        try:
            with start_device_server(log=Path(folder) / "log") as server:
                os.sched_setaffinity(server.pid, {CORES[0]})
                ports = {name: int(other.stdout.readline()) for name, other in others.items()}
                ports["server"] = int(server.info["port"])
                for clients in (1, 10, 100):
                    for name in ("echo", "server"):
                        print(name, shown(clients, *timed(program, ports[name], clients)))
                beside_hostile(program, ports)
        finally:
            for other in others.values():
                other.terminate()
                other.communicate()


if __name__ == "__main__":
    main()
