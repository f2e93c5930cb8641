"""What the IOC serves, compared with what its clients look for."""

from typing import Any

import pytest
from ophyd import Component, DynamicDeviceComponent, EpicsMotor, EpicsScaler
from ophyd.signal import EpicsSignalBase

from beamline.core.epics import client_environment
from beamline.core.pvs import PVS, SCALER, SCALER_CHANNELS
from ioc.__main__ import main
from ioc.channel import Field
from ioc.database import Database


def words(text: str) -> list[str]:
    return text.split()


#: Fields that ophyd-async, MEDM, Phoebus and SPEC look for beside ophyd's.
MOTOR_FIELDS = words("""
    RBV VAL OFF DIR FOFF SET VELO ACCL EGU MOVN DMOV HLS LLS HLM LLM TDIR STOP HOMF HOMR
    MRES SREV UREV ERES VMAX PREC RDBD DLLM DHLM OUT SPMG TWF TWR TWV JOGF JOGR DVAL RVAL DRBV
    RRBV RLV MSTA STAT SEVR ATHM CNEN LVIO MISS RTRY BDST DESC RTYP JVEL
""")

CAMERA = words("""
    Acquire AcquirePeriod AcquireTime ImageMode NumExposures NumImages TriggerMode ArrayCallbacks
    ArrayCounter
""")
CAMERA_ONLY = words("""
    DetectorState_RBV SizeX_RBV SizeY_RBV Manufacturer_RBV Model_RBV PortName_RBV DetDist_RBV
    BeamX_RBV BeamY_RBV XPixelSize_RBV YPixelSize_RBV PhotonEnergy_RBV
""")
FILES = words("""
    CreateDirectory EnableCallbacks FileWriteMode FilePath FileName FileNumber AutoIncrement
    ArrayCounter AutoSave NumCapture FileTemplate Capture BlockingCallbacks NDArrayPort
""")
FILES_ONLY = words("""
    FullFileName_RBV NumCaptured_RBV WriteStatus WriteMessage DroppedArrays_RBV FilePathExists_RBV
    PluginType_RBV PortName_RBV ArraySize0_RBV ArraySize1_RBV ArraySize2_RBV
""")


@pytest.fixture(scope="module")
def channels() -> dict[str, Field]:
    return Database("T:", "127.0.0.1", 1).channels()


def suffixes(device: type[Any]) -> set[str]:
    """Suffixes of all signals of an ophyd device class, read from the class."""
    found: set[str] = set()
    for component in device._sig_attrs.values():
        if isinstance(component, DynamicDeviceComponent):
            found |= {suffix for _, suffix, _ in component.defn.values()}
        elif isinstance(component, Component) and issubclass(component.cls, EpicsSignalBase):
            found.add(component.suffix)
    return found


def test_every_pv_of_the_table_is_served(channels: dict[str, Field]):
    for row in PVS:
        assert f"T:{row.suffix}" in channels
        field = channels[f"T:{row.suffix}"]
        assert field.reported_record_type == row.record
        assert field.read_only is not row.writable


def test_every_analog_has_units_precision_and_limits(channels: dict[str, Field]):
    for row in PVS:
        if row.record in {"ai", "ao", "motor"}:
            data = channels[f"T:{row.suffix}"]._data
            assert data["units"] == row.units
            assert data["precision"] == row.precision
            assert (data["lower_disp_limit"], data["upper_disp_limit"]) == (row.low, row.high)
        if row.record in {"ao", "motor"}:
            assert (data["lower_ctrl_limit"], data["upper_ctrl_limit"]) == (row.low, row.high)


def test_motors_have_what_clients_connect_to(channels: dict[str, Field]):
    wanted = {f".{name}" for name in MOTOR_FIELDS} | suffixes(EpicsMotor)
    assert len(wanted) > 40
    for row in PVS:
        if row.record == "motor":
            missing = {suffix for suffix in wanted if f"T:{row.suffix}{suffix}" not in channels}
            assert not missing


def test_the_scaler_has_what_ophyd_connects_to(channels: dict[str, Field]):
    wanted = suffixes(EpicsScaler)
    assert len(wanted) == 139
    assert not {suffix for suffix in wanted if f"T:{SCALER}{suffix}" not in channels}
    names = [channels[f"T:{SCALER}.NM{i}"].current for i in range(1, 8)]
    assert names == [*(name.removeprefix("DET:") for name in SCALER_CHANNELS), ""]


def test_the_area_detector_has_its_names(channels: dict[str, Field]):
    wanted = [f"cam1:{name}{rbv}" for name in CAMERA for rbv in ("", "_RBV")]
    wanted += [f"HDF1:{name}{rbv}" for name in FILES for rbv in ("", "_RBV")]
    wanted += [f"cam1:{name}" for name in CAMERA_ONLY] + [f"HDF1:{name}" for name in FILES_ONLY]
    assert not {name for name in wanted if f"T:AD1:{name}" not in channels}
    assert channels["T:AD1:cam1:PortName_RBV"].current == channels["T:AD1:HDF1:NDArrayPort"].current


def test_nothing_is_valid_before_the_server_has_been_heard(channels: dict[str, Field]):
    assert {field.alarm.severity for field in channels.values()} == {3}


@pytest.mark.parametrize("text", ["abc", "", "nan", "inf", "1e999"])
def test_a_value_that_cannot_be_understood_is_the_trouble_of_its_record(text: str):
    database = Database("T:", "127.0.0.1", 1)
    names = ["RING:CURRENT", "SHUTTER:STATUS", "SAMPLE:X.RBV", "SAMPLE:X.MSTA", "DET:ELAPSED",
             "AD1:TOTAL"]  # fmt: skip
    database.update({f"T:{name}": text for name in names} | {"T:HUTCH:TEMP": "22.5"}, 1e9)
    channels = database.channels()
    assert channels["T:HUTCH:TEMP"].current == 22.5
    assert channels["T:HUTCH:TEMP"].alarm.severity == 0
    assert channels["T:RING:CURRENT"].alarm.severity == 3
    assert channels["T:SHUTTER:STATUS"].alarm.severity == 3
    assert channels["T:SAMPLE:X"].alarm.severity == 3
    database.update({"T:SHUTTER:STATUS": "1", "T:SAMPLE:X.RBV": "1", "T:SAMPLE:X.MSTA": "2"}, 1e9)
    assert channels["T:SHUTTER:STATUS"].alarm.severity == 0
    assert channels["T:SAMPLE:X"].alarm.severity == 0


def test_list_pvs(capsys: pytest.CaptureFixture[str]):
    assert main(["--list-pvs", "--prefix", "XY:"]) == 0
    names = capsys.readouterr().out.split()
    assert names == sorted(set(names))
    assert {f"XY:{row.suffix}" for row in PVS} <= set(names)


@pytest.mark.parametrize("server", ["nonsense", "host:", ":5", "host:99999", "host:x"])
def test_a_wrong_server_address_is_one_sentence(server: str, capsys: pytest.CaptureFixture[str]):
    assert main(["--server", server, "--port", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_environment_of_clients_stays_on_this_machine():
    environment = client_environment(5100)
    assert environment["EPICS_CA_ADDR_LIST"] == "127.0.0.1:5100"
    assert environment["EPICS_CA_AUTO_ADDR_LIST"] == "NO"
    assert environment["EPICS_CA_REPEATER_PORT"] == "5101"
    assert client_environment(5100, 7)["EPICS_CA_REPEATER_PORT"] == "7"
