"""What unmodified Channel Access clients ask of the IOC beyond plain gets and puts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ioc_stack import Stack, running

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("clients"), time_scale=20.0) as stack:
        yield stack


def test_every_way_to_move_blinks_once_and_completes_at_the_end(stack: Stack):
    found = stack.client(
        """
        dmov, seen, early = pv("SAMPLE:X.DMOV"), [], []
        dmov.add_callback(lambda value, **_: seen.append(value))
        put("SAMPLE:X.TWV", 25.0)
        result = {}
        for field, value in (("VAL", 300.0), ("VAL", 300.0), ("DVAL", -200.0), ("RVAL", 1000),
                             ("RLV", 50.0), ("TWF", 1), ("TWR", 1), ("HOMF", 1), ("HOMR", 1),
                             ("VAL", 10001.0)):
            seen.clear()
            put("SAMPLE:X." + field, value)
            now = [get("SAMPLE:X.RBV"), get("SAMPLE:X.DMOV")]
            time.sleep(0.05)
            result[f"{field} {value}"] = [*now, list(seen)]
        tell(result=result)
        """
    )
    places = {
        "VAL 300.0": 300.0, "DVAL -200.0": -200.0, "RVAL 1000": 10.0, "RLV 50.0": 60.0,
        "TWF 1": 85.0, "TWR 1": 60.0, "HOMF 1": 0.0, "HOMR 1": 0.0, "VAL 10001.0": 0.0,
    }  # fmt: skip
    assert found["result"] == {name: [at, 1, [0, 1]] for name, at in places.items()}


def test_a_paused_motor_completes_its_put_when_it_has_gone_on(stack: Stack):
    found = stack.client(
        """
        motor, ended = pv("SAMPLE:Y"), []
        put("SAMPLE:Y.SPMG", "Pause")
        motor.put(500.0, use_complete=True, callback=lambda **_: ended.append(get_later()))
        get_later = time.time
        time.sleep(0.3)
        tell(paused=[len(ended), get("SAMPLE:Y.DMOV"), get("SAMPLE:Y.RBV"), get("SAMPLE:Y")])
        put("SAMPLE:Y.SPMG", "Go")
        while not ended:
            time.sleep(0.005)
        tell(gone=[get("SAMPLE:Y.DMOV"), get("SAMPLE:Y.RBV")])
        motor.put(9000.0, use_complete=True, callback=lambda **_: ended.append(get_later()))
        time.sleep(0.02)
        put("SAMPLE:Y.SPMG", "Stop")
        while len(ended) < 2:
            time.sleep(0.005)
        tell(stopped=[get("SAMPLE:Y.DMOV"), get("SAMPLE:Y") == get("SAMPLE:Y.RBV")])
        put("SAMPLE:Y.SPMG", "Go")
        time.sleep(0.1)
        tell(stays=get("SAMPLE:Y.DMOV"))
        """
    )
    assert found["paused"] == [0, 0, 0.0, 500.0]
    assert found["gone"] == [1, 500.0]
    assert found["stopped"] == [1, True]
    assert found["stays"] == 1


def test_names_and_types(stack: Stack):
    found = stack.client(
        """
        theta = epics.PV(P + "SAMPLE:THETA", form="ctrl")
        assert theta.wait_for_connection(30)
        theta.get()
        tell(ctrl=[theta.units, theta.precision, theta.lower_ctrl_limit, theta.upper_ctrl_limit],
             rtyp=[get(n + ".RTYP") for n in ("SAMPLE:X", "SCALER1", "HUTCH:TEMP", "SHUTTER:CMD")],
             desc=get("DET:TTH.DESC"), long=get("DET:TTH.DESC$", as_string=True),
             value=[get("HUTCH:TEMP"), get("HUTCH:TEMP.VAL")],
             text=[get("SHUTTER:CMD", as_string=True), get("SAMPLE:X.EGU")])
        put("DET:TTH.DESC", "the arm")
        tell(renamed=get("DET:TTH.DESC"))
        path = epics.PV(P + "AD1:HDF1:FilePath")
        assert path.wait_for_connection(30)
        long_path = "/tmp/" + "long/" * 30
        path.put(long_path, wait=True)
        tell(path=path.get(as_string=True) == long_path, count=path.count, type=path.type)
        put("SHUTTER:CMD", "Open")
        put("SHUTTER:CMD", 0)
        tell(shutter=get("SHUTTER:STATUS", as_string=True))
        filtered = epics.PV(P + 'SAMPLE:X.TWV{"dbnd":{"abs":5}}', auto_monitor=True)
        seen = []
        assert filtered.wait_for_connection(30)
        filtered.add_callback(lambda value, **_: seen.append(value))
        for value in (1.0, 2.0, 30.0, 31.0, 50.0):
            put("SAMPLE:X.TWV", value)
        until(lambda: 50.0 in seen)
        unknown = epics.PV(P + 'SAMPLE:X.TWV{"nonsense":{"x":5}}')
        tell(filtered=seen[-2:], unknown=unknown.wait_for_connection(0.5))
        """
    )
    assert found["ctrl"][0] == "deg"
    assert found["ctrl"][2:] == [-180, 180]
    assert found["rtyp"] == ["motor", "scaler", "ai", "bo"]
    assert found["desc"] == found["long"] == "2-theta arm of the point detector"
    assert found["value"][0] == pytest.approx(found["value"][1], abs=1.0)
    assert found["text"] == ["Close", "um"]
    assert found["renamed"] == "the arm"
    assert found["path"] is True
    assert found["count"] > 150
    assert "char" in found["type"]
    assert found["shutter"] == "Closed"
    assert found["filtered"] == [30.0, 50.0]
    assert found["unknown"] is False
    assert "Traceback" not in stack.log()


def test_hundreds_of_channels_connect_at_once(stack: Stack):
    listed = subprocess.run(
        [sys.executable, "-m", "ioc", "--list-pvs", "--server", "127.0.0.1:1"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    records = [name for name in listed if name.startswith("BL02:")]
    names = [f"BL02:SCALER1.{kind}{n}" for kind in ("S", "NM", "PR", "G") for n in range(1, 33)]
    names += [f"{record}{field}" for record in records for field in ("", ".RTYP", ".SEVR")]
    Path(stack.directory / "names").write_text("\n".join(names))
    found = stack.client(
        f"""
        import asyncio, aioca
        names = open({str(stack.directory / "names")!r}).read().split()
        async def main():
            values = await aioca.caget(names, format=aioca.FORMAT_TIME, timeout=60, throw=False)
            failed = [v.name for v in values if not v.ok]
            tell(total=len(names), failed=failed)
        asyncio.run(main())
        """
    )
    assert found["total"] > 500
    assert found["failed"] == []


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["get", "--format", "{response.data[0]:.1f}", "BL02:SAMPLE:Z"], "0.0"),
        (["put", "BL02:SAMPLE:Z", "12.5"], "12.5"),
        (["put", "BL02:SHUTTER:CMD", "Open"], "Open"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_command_line_tools_of_caproto(stack: Stack, command: list[str], shown: str):
    tool, *arguments = command
    done = subprocess.run(
        [sys.executable, "-m", f"caproto.commandline.{tool}", "--timeout", "30", *arguments],
        env={**os.environ, **stack.environment}, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
