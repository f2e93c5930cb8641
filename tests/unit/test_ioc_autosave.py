"""The autosave file: what is saved, what is put back, what is refused."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ioc_fakes import ScriptedLink, in_loop

from beamline.core.errors import ConnectionLostError, StorageError
from beamline.core.pvs import spec
from ioc.autosave import Autosave, locked, saved_fields
from ioc.database import Database
from ioc.fields import CharArray, Double, Enum, Long, String
from ioc.mirror import Output
from ioc.motor import Motor


def fields() -> dict[str, Any]:
    made = {
        "number": Double(value=1.5),
        "count": Long(value=3),
        "state": Enum(value=0, enum_strings=("Off", "On")),
        "text": String(value="abc"),
        "path": CharArray(value="/data/µ"),
    }
    for name, field in made.items():
        field.name = f"T:{name}"
    return made


def written(path: Path, values: dict[str, Any]) -> None:
    Autosave(path, "T:", fields()).save()
    content = json.loads(path.read_text())
    content["values"] |= values
    path.write_text(json.dumps(content))


@in_loop
async def test_values_of_all_kinds_come_back(tmp_path: Path):
    path = tmp_path / "new" / "settings.json"
    first = fields()
    first["number"].post(1 / 3)
    first["state"].post(1)
    first["path"].post(first["path"].pack("/elsewhere"))
    autosave = Autosave(path, "T:", first)
    autosave.load()
    autosave.save()
    second = fields()
    again = Autosave(path, "T:", second)
    again.load()
    await again.restore()
    assert again.starts == 2
    assert second["number"].current == 1 / 3
    assert second["state"].state == "On"
    assert (second["text"].current, second["path"].text) == ("abc", "/elsewhere")
    assert path.with_name("settings.json.bak").read_text() == path.read_text()
    assert not path.with_name("settings.json.new").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "fast"), ("number", float("nan")), ("number", True), ("count", 2**31),
        ("count", 1.5), ("state", "Halfway"), ("state", 1), ("text", 7), ("path", "x" * 2000),
        ("number", None), ("number", [1.0]),
    ],
)  # fmt: skip
@in_loop
async def test_a_value_that_does_not_fit_leaves_the_default(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: object
):
    path = tmp_path / "settings.json"
    written(path, {name: value})
    made = fields()
    before = {key: field.current for key, field in made.items()}
    autosave = Autosave(path, "T:", made)
    autosave.load()
    await autosave.restore()
    assert {key: field.current for key, field in made.items()} == before
    (record,) = caplog.records
    assert f"T:{name}" in record.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected JSON"),
        ('{"format": "beamline IOC settings", "vers', "expected JSON"),
        ("[1, 2]", 'expected "format"'),
        ('{"format": "beamline IOC settings", "version": 0}', "expected version 1, found "),
        ('{"format": "beamline IOC settings", "version": 1, "prefix": "X:"}', "found those of X:"),
        ("\udcff", "decode"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backed_up", [False, True])
@in_loop
async def test_a_file_that_cannot_be_used_is_kept_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, reason: str, backed_up: bool
):
    path = tmp_path / "settings.json"
    if backed_up:
        written(path, {"number": 9.5})
        path.rename(tmp_path / "settings.json.bak")
    raw = text.encode("utf-8", "surrogateescape")
    path.write_bytes(raw)
    made = fields()
    autosave = Autosave(path, "T:", made)
    autosave.load()
    await autosave.restore()
    assert made["number"].current == (9.5 if backed_up else 1.5)
    (aside,) = tmp_path.glob("*.refused-*")
    assert aside.read_bytes() == raw
    (record,) = caplog.records
    assert reason in record.message
    assert str(path) in record.message


@in_loop
async def test_a_value_of_no_field_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "settings.json"
    written(path, {"gone": 1.0})
    autosave = Autosave(path, "T:", fields())
    autosave.load()
    (record,) = caplog.records
    assert "gone" in record.message


@in_loop
async def test_settings_of_the_device_server_wait_for_it(tmp_path: Path):
    path = tmp_path / "settings.json"
    link = ScriptedLink()
    link.connected = False
    motor = Motor("T:", spec("SAMPLE:X"), link)  # type: ignore[arg-type]
    chosen = saved_fields("T:", [motor])
    Autosave(path, "T:", chosen).save()
    content = json.loads(path.read_text())
    content["values"] |= {"SAMPLE:X.VELO": 250.0, "SAMPLE:X.OFF": 5.0, "SAMPLE:X.DIR": "Neg"}
    path.write_text(json.dumps(content))
    autosave = Autosave(path, "T:", chosen, connected=lambda: link.connected)
    autosave.load()
    await autosave.restore()
    assert (chosen["SAMPLE:X.OFF"].current, chosen["SAMPLE:X.DIR"].state) == (5.0, "Neg")
    assert link.sent == []
    # Saving meanwhile does not lose what waits.
    autosave.save()
    assert json.loads(path.read_text())["values"]["SAMPLE:X.VELO"] == 250.0
    link.connected = True
    restoring = asyncio.create_task(autosave.restore())
    await asyncio.sleep(0)
    assert link.sent == ["PUT:T:SAMPLE:X.VELO:250"]
    link.ok("PUT")
    await restoring
    assert chosen["SAMPLE:X.VELO"].current == 250.0


@in_loop
async def test_what_the_server_had_already_is_given_to_its_successor(tmp_path: Path):
    path = tmp_path / "settings.json"
    link = ScriptedLink()
    motor = Motor("T:", spec("SAMPLE:X"), link)  # type: ignore[arg-type]
    exposure = Output("T:", spec("DET:EXPOSURE"), link)  # type: ignore[arg-type]
    settled = True
    chosen = saved_fields("T:", [motor, exposure])

    def news(velocity: float, high: float, seconds: float) -> None:
        motor.mirror({"VELO": f"{velocity}", "HLM": f"{high}"}, time.time())
        exposure.mirror(f"{seconds}", time.time())

    news(321.0, 777.0, 0.33)
    Autosave(path, "T:", chosen).save()
    autosave = Autosave(path, "T:", chosen, settled=lambda: settled)
    autosave.load()
    await autosave.restore()
    autosave.save()
    assert link.sent == []
    for record in (motor, exposure):
        record.lose_link()
    # A server that started anew, and is lost once more before it has taken anything.
    settled = False
    for attempt in range(2):
        news(2000.0, 10000.0, 0.1)
        chosen["SAMPLE:X.OFF"].post(float(attempt))
        autosave.save()
        values = json.loads(path.read_text())["values"]
        assert (values["SAMPLE:X.VELO"], values["SAMPLE:X.DHLM"]) == (321.0, 777.0)
        assert (values["DET:EXPOSURE"], values["SAMPLE:X.OFF"]) == (0.33, attempt)
        link.sent.clear()
        motor.restore()
        if attempt:
            exposure.restore()
        for record in (motor, exposure):
            if not attempt:
                record.lose_link()
        if not attempt:
            link.lose()
            link.connected = True
            await asyncio.sleep(0)
    assert {"PUT:T:SAMPLE:X.VELO:321", "PUT:T:SAMPLE:X.HLM:777"} <= set(link.sent)
    assert link.sent[-1].startswith("PUT:T:DET:EXPOSURE:0.33")


@in_loop
async def test_what_a_lost_server_did_not_take_is_not_lost(tmp_path: Path):
    path = tmp_path / "settings.json"
    link = ScriptedLink()
    motor = Motor("T:", spec("SAMPLE:X"), link)  # type: ignore[arg-type]
    chosen = saved_fields("T:", [motor])
    Autosave(path, "T:", chosen).save()
    content = json.loads(path.read_text())
    content["values"]["SAMPLE:X.VELO"] = 250.0
    path.write_text(json.dumps(content))
    autosave = Autosave(path, "T:", chosen, connected=lambda: link.connected)
    autosave.load()
    restoring = asyncio.create_task(autosave.restore())
    await asyncio.sleep(0)
    link.lose()
    await restoring
    autosave.save()
    assert json.loads(path.read_text())["values"]["SAMPLE:X.VELO"] == 250.0
    link.connected = True
    again = asyncio.create_task(autosave.restore())
    await asyncio.sleep(0)
    link.ok("PUT")
    await again
    assert chosen["SAMPLE:X.VELO"].current == 250.0


@in_loop
async def test_the_scalers_time_is_one_that_a_client_has_set():
    database = Database("T:", "127.0.0.1", 1)
    link = ScriptedLink()
    database.link = database.scaler._link = link  # type: ignore[assignment]
    exposure = database.inputs["DET:EXPOSURE"]
    exposure._link = link  # type: ignore[attr-defined]
    database.update({"T:DET:EXPOSURE": "0.1"}, time.time())
    database.scaler.fields["TP"].put(0.33)  # type: ignore[misc]
    link.ok("PUT")
    database.update({"T:DET:EXPOSURE": "0.33"}, time.time())
    exposure.lose_link()
    database.update({"T:DET:EXPOSURE": "0.1"}, time.time())
    link.sent.clear()
    database._take_samples("a,b")
    assert link.sent[0].startswith("PUT:T:DET:EXPOSURE:0.33")
    assert link.sent[-1] == "PING"
    database.settled = False
    database._settle(ConnectionLostError("gone"))
    assert not database.settled
    database._settle("PONG")
    assert database.settled


def test_two_processes_cannot_have_one_file(tmp_path: Path):
    path = tmp_path / "new" / "settings.json"
    code = """
import sys
from pathlib import Path
from ioc.autosave import locked
with locked(Path(sys.argv[1])):
    print("READY", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StorageError) as refusal, locked(path):
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert str(path) in str(refusal.value)
    assert f"another IOC (process {process.pid})" in str(refusal.value)
    with locked(path):
        pass


def test_what_is_saved_is_what_a_person_sets_up():
    database = Database("T:", "127.0.0.1", 1)
    chosen = saved_fields("T:", database.records)
    for name in ("SAMPLE:X.OFF", "MONO:ENERGY.VELO", "DET:EXPOSURE", "SCALER1.TP", "SAMPLE:Y.DESC",
                 "AD1:HDF1:FilePath", "AD1:cam1:AcquireTime", "IOC:ACCESS", "DET:TTH.DHLM",
                 "SAMPLE:Z.SPMG", "SCALER1.NM2"):  # fmt: skip
        assert name in chosen
    for name in ("SAMPLE:X", "SAMPLE:X.VAL", "SAMPLE:X.SET", "SHUTTER:CMD", "ATTEN:FACTOR",
                 "SAMPLE:SELECT", "RING:CURRENT", "RING:CURRENT.DESC", "AD1:cam1:Acquire",
                 "AD1:HDF1:Capture", "SCALER1.CNT"):  # fmt: skip
        assert name not in chosen


def test_a_file_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    made = fields()
    states: list[str] = []
    autosave = Autosave(
        tmp_path / "file" / "settings.json", "T:", made, on_state=lambda s, _: states.append(s)
    )
    autosave.save()
    made["count"].post(4)
    autosave.save()
    (record,) = caplog.records
    assert "T:*" in record.message
    (tmp_path / "file").unlink()
    autosave.save()
    assert states == ["Failed", "Failed", "Saved"]
    assert json.loads((tmp_path / "file" / "settings.json").read_text())["values"]["count"] == 4


def test_a_writer_killed_in_mid_write_leaves_a_whole_file(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from ioc.autosave import Autosave
from ioc.fields import CharArray, Double
fields = {f"n{i}": Double(value=0.0) for i in range(3000)}
autosave = Autosave(Path(sys.argv[1]), "T:", fields)
turn = 0.0
while True:
    turn += 1.0
    for field in fields.values():
        field.post(turn)
    autosave.save()
    if turn == 1.0:
        print("READY", flush=True)
"""
    path = tmp_path / "settings.json"
    for attempt in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.003 + 0.011 * attempt)
            os.kill(process.pid, signal.SIGKILL)
        values = json.loads(path.read_text())["values"]
        assert len(values) == 3000
        assert len(set(values.values())) == 1
