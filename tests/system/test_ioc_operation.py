"""The IOC as a facility runs it: health records, write access, settings that survive."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ioc_stack import Stack, running

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("operation")) as stack:
        yield stack


def test_health_records(stack: Stack):
    found = stack.client(
        """
        beat = pv("IOC:HEARTBEAT")
        beats = []
        beat.add_callback(lambda value, **_: beats.append(value))
        names = ("CA_CLNT_CNT CA_CONN_CNT MEM_USED FD_CNT IOC_CPU_LOAD CAQ_DEPTH CAQ_COALESCED "
                 "LINK_RECONNECTS LINK_LATENCY RECORD_CNT PROCESS_ID").split()
        pvs = {name: pv("IOC:" + name) for name in names}
        until(lambda: len(beats) >= 3)  # all values are new then
        tell(beats=beats, **{name: p.get() for name, p in pvs.items()},
             texts={n: get("IOC:" + n, as_string=True)
                    for n in ("UPTIME", "STARTTOD", "LINK_STATE", "WRITER_STATE", "ACCESS")},
             limits=[pvs["CA_CLNT_CNT"].upper_warning_limit, pvs["CA_CLNT_CNT"].upper_alarm_limit],
             severities=[p.severity for p in pvs.values()])
        """
    )
    beats = found["beats"]
    assert len(beats) >= 2
    assert beats == sorted(set(beats))
    assert found["CA_CLNT_CNT"] == 1
    assert found["CA_CONN_CNT"] >= 12
    assert found["PROCESS_ID"] == stack.ioc.pid
    assert found["MEM_USED"] > 1e7
    assert found["FD_CNT"] > 5
    assert found["LINK_LATENCY"] > 0
    assert found["texts"]["LINK_STATE"] == "Connected"
    assert found["texts"]["WRITER_STATE"] == "Ready"
    assert found["texts"]["UPTIME"].startswith("00:")
    assert found["limits"] == [100.0, 175.0]
    assert max(found["severities"]) < 3


def test_machine_values_can_only_be_read(stack: Stack):
    found = stack.client(
        """
        names = ["RING:CURRENT", "RING:CURRENT.DESC", "VACUUM:PRESSURE", "HUTCH:TEMP",
                 "HUTCH:TEMP.PROC", "IOC:HEARTBEAT"]
        tell(access=[pv(name).write_access for name in names],
             others=[pv(name).write_access for name in ("ATTEN:FACTOR", "SAMPLE:X")])
        """
    )
    assert found["access"] == [False] * 6
    assert found["others"] == [True] * 2


def test_offline_is_seen_by_clients(stack: Stack):
    found = stack.client(
        """
        factor, mode = pv("ATTEN:FACTOR"), pv("IOC:ACCESS")
        mode.put("OFFLINE", wait=True)
        until(lambda: not factor.write_access)
        tell(offline=mode.write_access, severity=get("IOC:ACCESS.SEVR"))
        mode.put("Running", wait=True)
        until(lambda: factor.write_access)
        factor.put(0.5, wait=True)
        tell(factor=factor.get(use_monitor=False))
        factor.put(1.0, wait=True)
        """
    )
    assert found["offline"] is True
    assert found["severity"] == 2
    assert found["factor"] == 0.5


def test_a_caproto_client_learns_why_it_may_not_write(stack: Stack):
    code = """
        from caproto.sync.client import write
        for name, value in (("BL02:RING:CURRENT", 1.0), ("BL02:ATTEN:FACTOR", 7.0)):
            response = write(name, [value], notify=True, timeout=30)
            print(response.status.name)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **stack.environment},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["ECA_NOWTACCESS", "ECA_PUTFAIL"]
    assert "BL02:RING:CURRENT was not set to 1.0: the PV is read-only. (Client 127.0.0.1:" in (
        stack.log()
    )
    found = stack.client(
        """
        denied, refused = pv("IOC:CA_PUT_DENIED"), pv("IOC:CA_PUT_REFUSED")
        until(lambda: denied.get() and refused.get())
        tell(counts=[denied.get(), refused.get()])
        """
    )
    assert min(found["counts"]) >= 1


def test_what_clients_of_epics_see_of_a_refusal(stack: Stack):
    found = stack.client(
        """
        import asyncio, aioca
        async def put(name, value):
            try:
                await aioca.caput(P + name, value, wait=True, timeout=30)
                return "taken"
            except Exception as error:
                return str(error)
        async def main():
            tell(machine=await put("RING:CURRENT", 1.0), beyond=await put("ATTEN:FACTOR", 7.0),
                 nan=await put("ATTEN:FACTOR", float("nan")),
                 infinite=await put("SAMPLE:X", float("inf")),
                 state=await put("SHUTTER:CMD", "Ajar"), limit=await put("SAMPLE:X.HLM", 1e6),
                 number=await put("AD1:cam1:NumImages", "many"))
        asyncio.run(main())
        ring = pv("RING:CURRENT")
        try:
            ring.put(1.0, wait=True)
            tell(pyepics="no error")
        except Exception as error:
            tell(pyepics=str(error))
        tell(position=get("SAMPLE:X"), factor=get("ATTEN:FACTOR"), limit_now=get("SAMPLE:X.HLM"))
        """
    )
    assert "Write access denied" in found["machine"]
    for name in ("beyond", "nan", "infinite", "state", "limit", "number"):
        assert "Channel write request failed" in found[name], name
    assert "Write access denied" in found["pyepics"]
    assert (found["position"], found["factor"], found["limit_now"]) == (0.0, 1.0, 10000.0)
    log = stack.log()
    for words in (
        "BL02:ATTEN:FACTOR can't take 7: expected 0 to 1.",
        "BL02:ATTEN:FACTOR can't take nan: expected a finite number.",
        "BL02:SAMPLE:X can't take inf: expected a finite number.",
        "BL02:SHUTTER:CMD can't take 'Ajar': expected one of Close, Open.",
        "BL02:SAMPLE:X.HLM can't be set to 1e+06 um: expected -10000 to 10000.",
        "BL02:AD1:cam1:NumImages can't take 'many': expected a whole number, ",
    ):
        assert words in log


def test_a_jog_runs_at_its_own_speed(stack: Stack):
    found = stack.client(
        """
        velo = get("SAMPLE:X.VELO")
        tell(vmax=get("SAMPLE:X.VMAX"), velo=velo, default=get("SAMPLE:X.JVEL"))
        put("SAMPLE:X.JVEL", velo / 5)
        put("SAMPLE:X.JAR", 2 * velo)
        put("SAMPLE:X.JOGF", 1)
        until(lambda: get("SAMPLE:X.RBV") > 100.0)  # at full speed after a fifth of that
        rbv = pv("SAMPLE:X.RBV")
        def at():
            value = rbv.get_with_metadata(form="time", use_monitor=False)
            return value["value"], value["timestamp"]
        (start, begin), _, (stop, end) = at(), time.sleep(0.6), at()
        tell(speed=(stop - start) / (end - begin), shown=get("SAMPLE:X.VELO"))
        put("SAMPLE:X.JOGF", 0)
        while not get("SAMPLE:X.DMOV"):
            time.sleep(0.02)
        tell(rest=get("SAMPLE:X") - get("SAMPLE:X.RBV"))
        put("SAMPLE:X", 0.0)
        """
    )
    assert found["vmax"] == 10 * found["velo"]
    assert found["default"] == found["shown"] == found["velo"]
    assert found["speed"] == pytest.approx(found["velo"] / 5, rel=0.1)
    assert found["rest"] == 0.0
    with socket.create_connection(("127.0.0.1", stack.server_port), timeout=5) as server:
        server.sendall(b"GET:BL02:SAMPLE:X.VELO\n")
        assert server.recv(100).decode() == f"OK:{found['velo']:.17g}\n"


def test_a_server_that_starts_anew_gets_what_autosave_found_on_its_predecessor(tmp_path: Path):
    autosave = tmp_path / "settings.json"
    with running(tmp_path, ioc_options=["--autosave", str(autosave)]) as stack:
        stack.client(
            """
            put("SAMPLE:X.VELO", 321.0)
            put("SAMPLE:X.DHLM", 777.0)
            put("SCALER1.TP", 0.33)
            put("AD1:cam1:AcquireTime", 0.07)
            """
        )
        end = time.monotonic() + 60
        while "321" not in autosave.read_text() or "0.07" not in autosave.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        other = subprocess.run(
            [sys.executable, "-m", "ioc", "--port", "0", "--server",
             f"127.0.0.1:{stack.server_port}", "--autosave", str(autosave)],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert (other.returncode, other.stdout, other.stderr.count("\n")) == (2, "", 1)
        assert f"{autosave}: another IOC (process {stack.ioc.pid})" in other.stderr
        stack.ioc.kill()
        stack.start_ioc()  # the server has it all: nothing is put
        stack.server.kill()
        stack.restart_server()
        found = stack.client(
            """
            def settings():
                return [get("SAMPLE:X.VELO"), get("SAMPLE:X.DHLM"), get("SCALER1.TP"),
                        get("AD1:cam1:AcquireTime_RBV")]
            end = time.time() + 60
            while get("SAMPLE:X.SEVR") or settings() != [321.0, 777.0, 0.33, 0.07]:
                if time.time() > end:
                    break
                time.sleep(0.05)
            time.sleep(1.5)
            tell(found=settings())
            """
        )
        assert found["found"] == [321.0, 777.0, 0.33, 0.07]
        stack.ioc.kill()
        values = json.loads(autosave.read_text())["values"]
        names = ("SAMPLE:X.VELO", "SAMPLE:X.DHLM", "SCALER1.TP", "AD1:cam1:AcquireTime")
        assert [values[name] for name in names] == [321.0, 777.0, 0.33, 0.07]


def test_settings_survive_kill_and_restart_of_the_ioc_and_of_the_server(tmp_path: Path):
    autosave = tmp_path / "settings.json"
    with running(tmp_path, ioc_options=["--autosave", str(autosave)]) as stack:
        stack.client(
            """
            put("SAMPLE:X.VELO", 750.0)
            put("SAMPLE:X.DIR", "Neg")
            put("SAMPLE:X.OFF", 12.5)
            put("SAMPLE:X.HLM", 3000.0)
            put("SAMPLE:Y.SPMG", "Pause")
            put("SCALER1.TP", 0.75)
            put("AD1:cam1:NumImages", 7)
            put("AD1:HDF1:FilePath", str(os.getcwd()))
            put("ATTEN:FACTOR", 0.25)
            """
        )
        # It is saved once per second, perhaps between two of the puts: wait for the last one.
        end = time.monotonic() + 60
        while f'"{Path.cwd()}"' not in autosave.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        look = """
            def path(name):
                return bytes(int(c) for c in get(name)).split(b"\\0")[0].decode()
            tell(found=[get("SAMPLE:X.VELO"), get("SAMPLE:X.DIR"), get("SAMPLE:X.OFF"),
                        get("SAMPLE:X.HLM"), get("SAMPLE:X.LLM"), get("SAMPLE:Y.SPMG"),
                        get("SCALER1.TP"), get("AD1:cam1:NumImages_RBV"), get("DET:EXPOSURE")],
                 path=path("AD1:HDF1:FilePath"), factor=get("ATTEN:FACTOR"),
                 starts=get("IOC:START_CNT"), state=get("IOC:AUTOSAVE_STATE", as_string=True))
            """
        expected = [750.0, 1, 12.5, 3000.0, -9987.5, 1, 0.75, 7, 0.75]
        stack.ioc.kill()
        stack.start_ioc()
        found = stack.client(look)
        assert found["found"] == expected
        assert found["path"] == str(Path.cwd())
        assert found["factor"] == 0.25  # which the device server still has
        assert (found["starts"], found["state"]) == (2, "Saved")
        stack.ioc.stop()
        stack.server.kill()
        stack.restart_server()
        stack.start_ioc()
        found = stack.client(look)
        assert found["found"] == expected
        assert found["factor"] == 1.0  # hardware: not a setting
        assert found["starts"] == 3
        # The other way round: a server that comes later is given the settings.
        stack.ioc.stop()
        stack.server.kill()
        stack.start_ioc()
        stack.restart_server()
        found = stack.client(
            """
            while get("SAMPLE:X.SEVR") or get("SAMPLE:X.VELO") != 750.0:
                time.sleep(0.05)
            """
            + look
        )
        assert found["found"] == expected
        assert "Traceback" not in stack.log()
