"""Values on the wire: what clients may put, and what they get."""

import math

import numpy as np
import pytest
from caproto import AccessRights, AlarmSeverity, AlarmStatus, ChannelType

from ioc.channel import PutRefusedError
from ioc.fields import CharArray, Double, Enum, Long, Short, String
from ioc.record import AlarmLimits, Record


def string(text: str) -> list[bytes]:
    return [text.encode()]


@pytest.mark.parametrize("text", ["1.5", " 1.5e0 ", "1.50"])
def test_numbers_are_taken_as_strings(text: str):
    field = Double(value=0.0)
    field.client_put(string(text), ChannelType.STRING)
    assert field.current == 1.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_refused(value: float):
    field = Double(value=2.0)
    with pytest.raises(PutRefusedError, match="finite"):
        field.client_put(np.array([value]), ChannelType.DOUBLE)
    assert field.current == 2.0


def test_nonsense_is_refused():
    with pytest.raises(PutRefusedError, match="can't take 'abc'"):
        Double(value=0.0).client_put(string("abc"), ChannelType.STRING)
    with pytest.raises(PutRefusedError):
        Long(value=0).client_put(string("abc"), ChannelType.STRING)
    with pytest.raises(PutRefusedError, match="-32768 to 32767"):
        Short(value=0).client_put(np.array([70000], dtype=">i4"), ChannelType.LONG)


@pytest.mark.parametrize("data_type", [ChannelType.DOUBLE, ChannelType.LONG, ChannelType.ENUM])
def test_a_state_is_taken_as_a_number(data_type: ChannelType):
    field = Enum(value=0, enum_strings=("Close", "Open"))
    field.client_put(np.array([1]), data_type)
    assert field.state == "Open"
    with pytest.raises(PutRefusedError, match="Close, Open"):
        field.client_put(np.array([2]), data_type)


@pytest.mark.parametrize("text", ["Open", "1", "Open\0rubbish"])
def test_a_state_is_taken_by_name(text: str):
    field = Enum(value=0, enum_strings=("Close", "Open"))
    field.client_put(string(text), ChannelType.STRING)
    assert field.current == 1
    with pytest.raises(PutRefusedError, match="'Ajar'"):
        field.client_put(string("Ajar"), ChannelType.STRING)


def test_what_is_no_value_is_refused_in_words():
    field = Long(value=0)
    with pytest.raises(PutRefusedError, match="can't take nan: expected a whole number, -2147483"):
        field.client_put(np.array([math.nan]), ChannelType.DOUBLE)
    with pytest.raises(PutRefusedError, match="can't take an empty array: expected a finite"):
        Double(value=0.0).client_put(np.array([], dtype=">f8"), ChannelType.DOUBLE)
    with pytest.raises(PutRefusedError, match="can't take inf: expected one of Close, Open"):
        Enum(value=0, enum_strings=("Close", "Open")).client_put(
            np.array([math.inf]), ChannelType.DOUBLE
        )


def test_a_read_only_field_says_so():
    field = Double(value=1.0, read_only=True)
    assert field.check_access(None, None) == AccessRights.READ
    with pytest.raises(PutRefusedError, match="read-only"):
        field.client_put(np.array([2.0]), ChannelType.DOUBLE)


@pytest.mark.parametrize("path", ["", "/data/ünï/", "/a" * 400])
def test_paths_are_character_waveforms(path: str):
    field = CharArray(value="")
    raw = np.frombuffer(path.encode() + b"\0", dtype="u1")
    field.client_put(raw, ChannelType.CHAR)
    assert field.text == path
    _, values = field._encode(ChannelType.CHAR)
    assert bytes(values).rstrip(b"\0").decode() == path
    assert len(values) >= 1  # clients choke on arrays of length 0


def test_a_path_that_is_too_long_is_refused_not_cut():
    with pytest.raises(PutRefusedError, match="at most 1023 bytes"):
        CharArray(value="").client_put(np.full(1024, 65, dtype="u1"), ChannelType.CHAR)


def test_long_strings_and_short_ones():
    field = String(value="")
    field.client_put(np.frombuffer(b"abc\0", dtype="u1"), ChannelType.CHAR)
    assert field.current == "abc"
    field.client_put(string("def"), ChannelType.STRING)
    assert field.current == "def"


def test_values_are_shown_with_the_precision_of_the_record():
    def shown(value: float, precision: int) -> bytes:
        field = Double(value=value, precision=precision)
        return bytes(field._encode(ChannelType.STRING)[1][0])

    assert shown(1.23456, 3) == b"1.235"
    assert shown(0.0, 3) == b"0.000"
    assert float(shown(3.25e-9, 3)) == 3.25e-9
    assert shown(-200.0, 0) == b"-200"


def test_unset_alarm_limits_never_trigger():
    assert AlarmLimits().evaluate(0.0) == (AlarmStatus.NO_ALARM, AlarmSeverity.NO_ALARM)
    limits = AlarmLimits(lolo=1, low=2, high=8, hihi=9)
    states = [limits.evaluate(v)[0] for v in (0, 1, 2, 5, 8, 9, 10)]
    assert states == [
        AlarmStatus.LOLO, AlarmStatus.LOLO, AlarmStatus.LOW, AlarmStatus.NO_ALARM,
        AlarmStatus.HIGH, AlarmStatus.HIHI, AlarmStatus.HIHI,
    ]  # fmt: skip


def test_an_internal_write_beyond_limits_is_just_written():
    field = Double(value=0.0, upper_ctrl_limit=1.0, lower_ctrl_limit=-1.0)
    field.post(1e9)
    assert field.current == 1e9


def test_all_fields_of_a_record_share_alarm_and_time():
    record = Record("T:A", "ai", "a test")
    first, second = record.add("VAL", Double, value=0.0), record.add("B", Double, value=0.0)
    record.touch(1234567890.25)
    record.set_alarm(AlarmStatus.COMM, AlarmSeverity.INVALID_ALARM)
    for field in (first, second):
        metadata, _ = field._encode(ChannelType.TIME_DOUBLE)
        assert metadata.severity == AlarmSeverity.INVALID_ALARM
        assert metadata.stamp.timestamp == pytest.approx(1234567890.25, abs=1e-6)
    assert record.fields["SEVR"].state == "INVALID"
    assert record.fields["STAT"].state == "COMM"
    assert set(record.channels()) >= {"T:A", "T:A.VAL", "T:A.B", "T:A.SEVR"}
