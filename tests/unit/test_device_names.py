"""The devices use the names and units of the one table of process variables."""

from collections.abc import Iterator

import pytest
from ophyd import Device

from beamline.core.pvs import AREA_DETECTOR, FLYER, PVS, SCALER, SCALER_CHANNELS, spec
from devices import Axis, Beamline, IonChambers


def pvs_of(device: type[Device], prefix: str = "") -> Iterator[tuple[str, type]]:
    """Suffixes of all PVs that a class of device connects to, and the class that owns each."""
    for name in device.component_names:
        component = getattr(device, name)
        names = [component.suffix, component.kwargs.get("write_pv")]
        for suffix in filter(lambda text: text is not None, names):
            if issubclass(component.cls, Device):
                yield from pvs_of(component.cls, prefix + suffix)
            else:
                yield prefix + suffix, device


def test_every_pv_is_in_the_table():
    records = {pv.suffix for pv in PVS} | {SCALER}
    groups = (f"{AREA_DETECTOR}:", f"{FLYER}:")
    for name, _ in pvs_of(Beamline):
        assert name.split(".")[0] in records or name.startswith(groups), name


def test_every_row_of_the_table_has_a_device():
    used = {name.split(".")[0] for name, _ in pvs_of(Beamline)}
    # The scaler counts these.
    counted = {*SCALER_CHANNELS, "DET:EXPOSURE"}
    assert {pv.suffix for pv in PVS} - counted <= used


def test_motors_are_axes_and_the_other_way_round():
    axes = {name.removesuffix(".RBV") for name, owner in pvs_of(Beamline) if owner is Axis}
    assert {name for name in axes if "." not in name} == {
        pv.suffix for pv in PVS if pv.record == "motor"
    }


@pytest.mark.parametrize(
    ("counter", "channel"),
    [
        ("i0", "DET:I0"),
        ("itrans", "DET:IT"),
        ("ifluor", "DET:IF"),
        ("irefer", "DET:IR"),
        ("idiffr", "DET:XRD"),
    ],
)
def test_counters_are_the_channels_of_the_scaler(counter, channel):
    number = SCALER_CHANNELS.index(channel) + 1
    component = getattr(IonChambers, counter)
    assert component.suffix == f".S{number}"
    assert component.kwargs["units"] == spec(channel).units
