"""Requests per second of the device server, beside a bare epoll echo server.

Server and load generator have a core each where there are two. Run with
``python benchmarks/device_server.py`` (needs a C compiler, on Linux).
"""

import os
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from ioc.simulator import start_device_server

SECONDS = 3.0
LINE = "GET:BL02:MONO:ENERGY"
CORES = sorted(os.sched_getaffinity(0))


def measure(program: Path, port: int, clients: int, line: str) -> str:
    done = subprocess.run(
        [program, "load", str(port), str(clients), str(SECONDS), line],
        check=True, capture_output=True, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {CORES[-1]}),
    )  # fmt: skip
    rate, median, late = map(float, done.stdout.split())
    return f"{clients:4d} clients: {rate:8.0f} /s, median {median:7.1f} µs, 99 % {late:7.1f} µs"


def harass(port: int, stop: threading.Event) -> None:
    """Half lines, garbage, long lines and resets."""
    pieces = [b"GET:BL02:RI", b"\0\xff\n" * 50, b"A" * 3000, b"LIST\n" * 20 + b"PI"]
    while not stop.wait(0.002):
        for piece in pieces:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(piece)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "line_load"
        source = Path(__file__).with_name("line_load.c")
        subprocess.run(["cc", "-O2", source, "-o", program], check=True)
        echo = subprocess.Popen([program, "echo"], stdout=subprocess.PIPE, text=True)
        with start_device_server(log=Path(folder) / "log") as server:
            os.sched_setaffinity(echo.pid, {CORES[0]})
            os.sched_setaffinity(server.pid, {CORES[0]})
            ports = {"echo": int(echo.stdout.readline()), "server": int(server.info["port"])}
            for clients in (1, 10, 100):
                for name, port in ports.items():
                    print(name, measure(program, port, clients, LINE))
            print("quiet", measure(program, ports["server"], 10, LINE))
            stop = threading.Event()
            hostile = threading.Thread(target=harass, args=(ports["server"], stop))
            hostile.start()
            print("beside hostile clients", measure(program, ports["server"], 10, LINE))
            stop.set()
            hostile.join()
        echo.terminate()
        echo.wait()
        echo.stdout.close()


if __name__ == "__main__":
    main()
