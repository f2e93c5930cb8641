"""The quick checks of events and pages find what event-model's find, in sound and broken ones."""

import copy
import threading

import event_model
import jsonschema
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from hypothesis import given
from hypothesis import strategies as st

from beamline.documents.validation import EventValidator, page_validator, quick_validation

NAME = event_model.DocumentNames.event_page
STOCK = event_model.schema_validators[NAME]
QUICK = page_validator(STOCK)

KEYS = st.text(max_size=3)
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(0, 9).map(float))
#: What may stand where a value is expected, and what may not.
VALUES = st.one_of(
    NUMBERS,
    st.text(max_size=3),
    st.booleans(),
    st.none(),
    st.complex_numbers(),
    st.binary(max_size=2),
    st.sampled_from([np.float64(1.5), np.int64(2), np.bool_(True), np.nan, np.zeros(2), (), []]),
    st.lists(NUMBERS, max_size=2),
    st.dictionaries(KEYS, NUMBERS, max_size=2),
)


@st.composite
def pages(draw):
    rows = draw(st.integers(0, 5))

    def column(values):
        return st.lists(values, min_size=rows, max_size=rows)

    page = {
        "descriptor": draw(st.text(max_size=3)),
        "uid": draw(column(st.text(max_size=3))),
        "seq_num": draw(column(st.integers())),
        "time": draw(column(NUMBERS)),
        "data": draw(st.dictionaries(KEYS, column(VALUES), max_size=3)),
        "timestamps": draw(st.dictionaries(KEYS, column(NUMBERS), max_size=3)),
    }
    if draw(st.booleans()):
        page["filled"] = draw(
            st.dictionaries(KEYS, column(st.one_of(st.booleans(), st.text(max_size=3))), max_size=3)
        )
    return page


@st.composite
def broken(draw):
    """Give a page with up to three of: a value, column or part replaced, removed or added."""
    page = draw(pages())
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*page, "surplus"]))
        part = page.get(name)
        columns = part if isinstance(part, dict) and part else None
        within = columns if columns is not None and draw(st.booleans()) else page
        key = draw(st.sampled_from(list(within))) if within is columns else name
        column = within.get(key)
        kind = draw(st.sampled_from(["value", "column", "shape", "remove"]))
        if kind == "remove":
            within.pop(key, None)
        elif kind == "value" and isinstance(column, list) and column:
            column[draw(st.integers(0, len(column) - 1))] = draw(VALUES)
        elif kind == "shape" and isinstance(column, list):
            within[key] = draw(st.sampled_from([tuple, str, iter]))(column)
        else:
            within[key] = draw(st.one_of(VALUES, st.lists(VALUES, max_size=5)))
    return page


def errors(validator, page):
    try:
        return [(list(error.absolute_path), error.message) for error in validator.iter_errors(page)]
    except TypeError as error:  # jsonschema's own, of a NumPy scalar in the place of a list
        return [str(error)]


@given(pages())
def test_a_sound_page_is_sound_to_both(page):
    STOCK.validate(page)
    QUICK.validate(page)


@given(broken())
def test_the_same_is_wrong_with_a_broken_page(page):
    assert errors(QUICK, page) == errors(STOCK, page)


SOUND = {
    "descriptor": "d",
    "uid": ["a", "b"],
    "seq_num": [1, 2],
    "time": [1.0, 2.0],
    "data": {"x": [1.0, 2.0]},
    "timestamps": {"x": [1.0, 2.0]},
    "filled": {"x": [True, "datum"]},
}


def damaged(*path, value):
    page = copy.deepcopy(SOUND)
    at = page
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return page


@pytest.mark.parametrize(
    ("page", "where"),
    [
        (damaged("seq_num", 1, value=2.5), ["seq_num", 1]),
        (damaged("seq_num", 1, value=True), ["seq_num", 1]),
        (damaged("uid", 0, value=1), ["uid", 0]),
        (damaged("time", 0, value="now"), ["time", 0]),
        (damaged("time", 0, value=False), ["time", 0]),
        (damaged("time", 1, value=None), ["time", 1]),
        (damaged("filled", "x", 0, value=1), ["filled", "x", 0]),
        (damaged("data", "x", value=3.0), ["data", "x"]),
        (damaged("data", value=[]), ["data"]),
        (damaged("descriptor", value=1), ["descriptor"]),
        (damaged("surplus", value=1), []),
    ],
)
def test_each_kind_of_damage_is_found_and_placed(page, where):
    assert where in [path for path, _ in errors(QUICK, page)]
    assert errors(QUICK, page) == errors(STOCK, page)


@pytest.mark.parametrize("part", ["descriptor", "uid", "seq_num", "time", "data", "timestamps"])
def test_a_missing_part_is_found(part):
    page = {key: value for key, value in SOUND.items() if key != part}
    assert not QUICK.is_valid(page)
    assert errors(QUICK, page) == errors(STOCK, page)


def test_integral_floats_and_arrays_are_what_they_are_to_event_model():
    for page in (
        damaged("seq_num", 1, value=2.0),
        damaged("data", "x", value=np.zeros(2)),
        damaged("data", "x", value=(1.0, 2.0)),
    ):
        assert errors(QUICK, page) == errors(STOCK, page) == []


def test_event_model_has_its_own_validator_back_after_the_last_block():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with quick_validation():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with quick_validation():
        thread.start()
        assert inside.wait(60)
        assert event_model.schema_validators[NAME] is not STOCK
    assert event_model.schema_validators[NAME] is not STOCK
    leave.set()
    thread.join(60)
    assert event_model.schema_validators[NAME] is STOCK
    with pytest.raises(ZeroDivisionError), quick_validation():
        raise ZeroDivisionError
    assert event_model.schema_validators[NAME] is STOCK


def test_a_plan_that_fails_within_the_block_gives_it_back():
    def plan():
        with quick_validation():
            assert event_model.schema_validators[NAME] is not STOCK
            yield from bps.null()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        RunEngine({}, context_managers=[])(plan())
    assert event_model.schema_validators[NAME] is STOCK


EVENT = event_model.DocumentNames.event
STOCK_EVENT = event_model.schema_validators[EVENT]
QUICK_EVENT = EventValidator(STOCK_EVENT)
SOUND_EVENT = {
    "descriptor": "d",
    "uid": "u",
    "seq_num": 1,
    "time": 1.5,
    "data": {"x": 1.0, "image": np.zeros(2), "words": ["a"]},
    "timestamps": {"x": 1.0, "image": 2.0, "words": 3.0},
    "filled": {"image": False, "other": "datum"},
}


def verdict(validator, event):
    try:
        validator.validate(event)
    except jsonschema.ValidationError as error:
        return list(error.absolute_path), error.message
    return None


def test_a_sound_event_is_not_given_to_jsonschema():
    assert QUICK_EVENT.is_plain(SOUND_EVENT)
    assert QUICK_EVENT.is_plain({k: v for k, v in SOUND_EVENT.items() if k != "filled"})


@given(
    st.dictionaries(
        st.sampled_from([*SOUND_EVENT, "surplus"]),
        st.one_of(
            st.none(), VALUES, st.dictionaries(KEYS, st.one_of(st.booleans(), VALUES), max_size=2)
        ),
        max_size=2,
    ),
    st.sets(st.sampled_from([*SOUND_EVENT]), max_size=1),
)
def test_the_same_is_wrong_with_a_broken_event(changes, missing):
    event = {k: v for k, v in {**SOUND_EVENT, **changes}.items() if k not in missing}
    assert verdict(QUICK_EVENT, event) == verdict(STOCK_EVENT, event)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"seq_num": 1.5}, True),
        ({"seq_num": 2.0}, False),
        ({"seq_num": True}, True),
        ({"time": "now"}, True),
        ({"time": 3}, False),
        ({"uid": 1}, True),
        ({"data": []}, True),
        ({"filled": {"x": 1}}, True),
        ({"surplus": 1}, True),
    ],
)
def test_what_is_wrong_with_an_event(change, wrong):
    event = {**SOUND_EVENT, **change}
    assert (verdict(QUICK_EVENT, event) is not None) == wrong
    assert verdict(QUICK_EVENT, event) == verdict(STOCK_EVENT, event)


@pytest.mark.parametrize(
    "change",
    [
        {"properties": {"uid": {"type": "string", "pattern": "^u"}}},
        {"patternProperties": {"x": {}}},
        {"allOf": [{"$ref": "elsewhere"}]},
        {"properties": {"time": {"type": "number"}}},
    ],
)
def test_a_schema_that_asks_for_more_is_left_to_jsonschema(change):
    stock = type(STOCK_EVENT)({**STOCK_EVENT.schema, **change})
    assert not EventValidator(stock).is_plain(SOUND_EVENT)


def test_a_plan_of_ours_has_its_events_checked_quickly():
    from ophyd.sim import det, motor

    from beamline.plans import linear_scan

    seen = []
    run_engine = RunEngine({}, context_managers=[])
    run_engine.subscribe(
        lambda *_: seen.append(type(event_model.schema_validators[EVENT])), "event"
    )
    run_engine(linear_scan([det], motor, 0, 1, 2))
    assert seen == [EventValidator] * 2
    assert event_model.schema_validators[EVENT] is STOCK_EVENT
