"""The program beamline-sim: options, refusals, signals; and how Python starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from device_client import (
    Client,
    wait,
)

from beamline.core.errors import ProcessError
from beamline.core.processes import free_port
from ioc.simulator import device_server_binary, start_device_server

pytestmark = pytest.mark.system


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(device_server_binary()), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_help_and_version() -> None:
    assert run("--help").returncode == 0
    assert "--time-scale" in run("--help").stdout
    assert re.fullmatch(r"beamline-sim \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["--port"], "--port"),
        (["--port=65536"], "65535"),
        (["--port=abc"], "abc"),
        (["--seed=-1"], "--seed"),
        (["--time-scale=0"], "--time-scale"),
        (["--time-scale=nan"], "--time-scale"),
        (["--prefix=a b"], "--prefix"),
        (["--prefix=" + "x" * 33], "--prefix"),
        (["--host=no.such.host.invalid"], "no.such.host.invalid"),
        (["--sample=/no/such/table"], "/no/such/table"),
        (["--sample=/"], "directory"),
        (["--config=/no/such/config"], "/no/such/config"),
        (["--sample=x"] * 17, "16"),
        (["stray"], "stray"),
    ],
)
def test_refusals_are_one_sentence(arguments: list[str], words: str) -> None:
    done = run("--port=0" if "--port" not in " ".join(arguments) else "--seed=1", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.startswith("beamline-sim: ")
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1


def test_wrong_configuration_key_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sim.conf"
    path.write_text("# physics\nring_max_mA = 300\nring_maximum = 3\n")
    done = run("--port=0", f"--config={path}")
    assert done.returncode == 2
    assert "line 3" in done.stderr
    assert "ring_maximum" in done.stderr


def test_port_in_use(port: int, tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=rf"port {port}: Address already in use"):
        start_device_server(log=tmp_path / "log", port=port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    # Not a port that the system gives to clients, one of whom might take it meanwhile.
    with start_device_server(log=tmp_path / "log", port=free_port()) as child:
        with Client(int(child.info["port"])) as client:
            client.do("MOVE:BL02:MONO:ENERGY:12000")
            os.kill(child.pid, number)
            with pytest.raises(ConnectionError):
                client.line()
        wait(lambda: not child.running)
        assert child.stop() == 0
        # The port is free again at once.
        with start_device_server(log=tmp_path / "log", port=int(child.info["port"])):
            pass
    assert (tmp_path / "log").read_text() == ""


def test_it_ends_with_its_parent() -> None:
    process = subprocess.Popen(
        [str(device_server_binary()), "--port=0", "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[0] == "READY"
    assert words[1] == "host=127.0.0.1"
    assert words[3] == f"pid={process.pid}"
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stdout.read() == ""
    process.stdout.close()


def test_prefix_and_sixteen_samples(tmp_path: Path, table: Path) -> None:
    with (
        start_device_server(log=tmp_path / "log", prefix="X1:", samples=[table] * 16) as child,
        Client(int(child.info["port"])) as client,
    ):
        assert client.ask("GET:X1:MONO:ENERGY") == "OK:9000"
        assert client.ask("GET:BL02:MONO:ENERGY") == "ERR:UNKNOWN_PV"
        assert client.ask("PUT:X1:SAMPLE:SELECT:15") == "OK:PUT"
        assert client.ask("PUT:X1:SAMPLE:SELECT:16") == "ERR:INVALID_VALUE"
        assert client.ask("SAMPLES") == "OK:" + ",".join(["Cu"] * 16)


def test_settings_change_the_physics(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "sim.conf"
    path.write_text("sample_x_um = -100  # of every sample\ndetector_nx=100\ndetector_ny=80\n")
    with (
        start_device_server(log=tmp_path / "log", samples=[table], config=path) as child,
        Client(int(child.info["port"])) as client,
    ):
        truth = client.truth()
        assert [sample["x_um"] for sample in truth["samples"]] == [-100]
        assert [sample["y_um"] for sample in truth["samples"]] == [-260]
        assert truth["detector"]["shape"] == [80, 100]


def test_without_a_sample_nothing_absorbs(tmp_path: Path) -> None:
    with (
        start_device_server(log=tmp_path / "log", time_scale=20) as child,
        Client(int(child.info["port"])) as client,
    ):
        assert client.ask("SAMPLES") == "OK:empty"
        client.open_shutter()
        counts = client.counts()
        assert counts["IT"] == pytest.approx(counts["I0"], rel=0.01)


def test_missing_and_stale_programs_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "ioc"
    monkeypatch.delenv("DEVICE_SERVER_PROGRAM", raising=False)
    monkeypatch.setattr("ioc.simulator.files", lambda name: package)
    with pytest.raises(ProcessError, match="is missing"):
        device_server_binary()
    binary = package / "_bin" / "beamline-sim"
    source = package / "device_server" / "src" / "main.c"
    for path in (binary, source):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(binary, (1, 1))
    assert device_server_binary() == binary  # installed: times of files say nothing
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(ProcessError, match=r"older than its source main\.c"):
        device_server_binary()
