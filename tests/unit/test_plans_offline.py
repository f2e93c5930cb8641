"""Plans against soft devices: documents, order of actions, limits, and what happens on errors."""

from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData
from bluesky.simulators import summarize_plan
from bluesky.utils import FailedStatus, Msg, RunEngineInterrupted
from ophyd import Component as Cpt
from ophyd import Device, Signal, SoftPositioner
from ophyd.status import DeviceStatus
from ophyd.utils.epics_pvs import AlarmSeverity, AlarmStatus

from beamline.core.errors import ConnectionLostError, MotorLimitError
from beamline.plans import linear_scan, mesh_scan, safe_state, stills, xafs_scan
from beamline.plans._beam import watching_beam
from beamline.plans.arguments import PlanArgumentError
from beamline.plans.metadata import run_engine_metadata
from beamline.session import DataStore, make_run_engine

LOG: list[tuple] = []


class Motor(SoftPositioner):
    """Moves at once, writes down what it was asked for, and can be told to fail."""

    fails_at = None

    def move(self, position, wait=False, **kwargs):
        LOG.append(("move", self.name, position))
        if position == self.fails_at:
            status = DeviceStatus(self)
            status.set_exception(RuntimeError(f"{self.name} is stuck"))
            return status
        return super().move(position, **kwargs)

    def stop(self, *, success=False):
        LOG.append(("stop", self.name))
        super().stop(success=success)


class Shutter(Device):
    status = Cpt(Signal, value=0, kind="normal")

    def set(self, value):
        LOG.append(("shutter", value))
        return self.status.set({"Open": 1, "Close": 0}[value])


class Counters(Device):
    i0 = Cpt(Signal, value=0, kind="hinted")
    exposure = Cpt(Signal, value=1.0, kind="normal")

    def stage(self):
        LOG.append(("stage", self.name))
        return super().stage()

    def unstage(self):
        LOG.append(("unstage", self.name))
        return super().unstage()

    def trigger(self):
        LOG.append(("count", self.exposure.get()))
        self.i0.put(self.i0.get() + 1)
        status = DeviceStatus(self)
        status.set_finished()
        return status


class Mono(Device):
    energy = Cpt(Motor, limits=(4000, 20000), egu="eV", init_pos=9000.0)
    crystal_type = "Si"
    reflection = (1, 1, 1)
    d_spacing = 3.1356


class Stage(Device):
    x = Cpt(Motor, limits=(-100, 100), egu="um", init_pos=0.0)
    y = Cpt(Motor, limits=(-100, 100), egu="um", init_pos=0.0)
    select = Cpt(Signal, value="Cu", kind="config")


class SoftBeamline(Device):
    shutter = Cpt(Shutter)
    mono = Cpt(Mono)
    sample = Cpt(Stage)
    counters = Cpt(Counters)

    @property
    def baseline(self):
        return (self.mono, self.sample, self.shutter)

    @property
    def axes(self):
        return (self.mono.energy, self.sample.x, self.sample.y)

    @property
    def area_detector(self):
        return self.counters

    @property
    def flyer(self):
        return self.counters


@pytest.fixture
def bl():
    LOG.clear()
    beamline = SoftBeamline("BL99:", name="bl")
    LOG.clear()
    return beamline


class Documents:
    def __init__(self):
        self.seen = []

    def __call__(self, name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(
            event_model.sanitize_doc(doc)
        )
        self.seen.append((name, doc))

    def all(self, name):
        return [doc for found, doc in self.seen if found == name]

    def events(self, stream):
        (uid,) = [d["uid"] for d in self.all("descriptor") if d["name"] == stream]
        return [doc for doc in self.all("event") if doc["descriptor"] == uid]

    @property
    def start(self):
        return self.all("start")[-1]

    @property
    def stop(self):
        return self.all("stop")[-1]


@pytest.fixture
def docs():
    return Documents()


@pytest.fixture
def engine(docs):
    run_engine = RunEngine({}, context_managers=[])
    run_engine.subscribe(docs)
    return run_engine


def test_linear_scan(engine, docs, bl):
    (uid,) = engine(linear_scan([bl.counters], bl.sample.x, -10, 10, 5))
    assert docs.start["uid"] == uid
    assert [e["data"]["bl_sample_x"] for e in docs.events("primary")] == [-10, -5, 0, 5, 10]
    assert len(docs.events("baseline")) == 2
    assert docs.stop["exit_status"] == "success"
    assert LOG[0] == ("shutter", "Open")
    closing = LOG.index(("shutter", "Close"))
    assert LOG.index(("unstage", "bl_counters")) < closing
    assert not [entry for entry in LOG[closing:] if entry[0] in ("move", "count")]


def test_start_metadata(engine, docs, bl):
    engine(linear_scan([bl.counters], bl.sample.x, -10, 10, 5, md={"purpose": "test"}))
    start = docs.start
    assert start["plan_name"] == "linear_scan"
    assert start["plan_args"]["num"] == start["num_points"] == 5
    assert start["motors"] == ["bl_sample_x"]
    assert start["detectors"] == ["bl_counters"]
    assert start["hints"]["dimensions"] == [[["bl_sample_x"], "primary"]] or start["hints"][
        "dimensions"
    ] == [(["bl_sample_x"], "primary")]
    assert start["beamline_id"] == "BL99"
    assert start["instrument"]["monochromator"] == {
        "type": "Si", "reflection": [1, 1, 1], "d_spacing": 3.1356,
    }  # fmt: skip
    assert start["instrument"]["source"]["probe"] == "x-ray"
    assert "beamline-dataflow" in start["versions"]
    assert start["sample"] == {"name": "Cu", "formula": "Cu"}
    assert start["purpose"] == "test"


def test_the_run_engines_metadata_win_over_defaults(engine, docs, bl):
    engine.md.update(
        sample={"name": "mine"}, beamline_id="B7", facility="Ring", versions={"x": "1"}
    )
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2))
    assert docs.start["sample"] == {"name": "mine"}
    assert docs.start["beamline_id"] == docs.start["instrument"]["name"] == "B7"
    assert docs.start["instrument"]["source"]["name"] == "Ring"
    assert docs.start["versions"]["x"] == "1"
    assert not engine.suspenders


def test_an_argument_wins_over_the_run_engines_metadata(engine, docs, bl):
    engine.md["sample"] = {"name": "mine"}
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2, sample="theirs"))
    assert docs.start["sample"] == {"name": "theirs"}


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("Fe2O3", "Fe2O3"),
        ("Cu foil", "Cu"),
        ("Fe0.9Ni0.1 foil", "Fe0.9Ni0.1"),
        ("lysozyme", None),
        ("2016 run", None),
        ("Xy foil", None),
        ("", None),
    ],
)
def test_only_a_chemical_formula_becomes_one(engine, docs, bl, name, formula):
    bl.sample.select.put(name)
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2))
    assert docs.start["sample"].get("formula") == formula


def test_metadata_without_a_run_engine_are_empty():
    plan = run_engine_metadata()
    next(plan)
    plan.send(None)
    with pytest.raises(StopIteration) as stop:
        plan.send(None)
    assert stop.value.value == {}


def test_the_detector_chooses_the_default_plot_unless_the_user_does(engine, docs, bl):
    def scan(**options):
        engine(linear_scan([plain, bl.counters], bl.sample.x, 0, 1, 2, **options))
        return docs.start.get("nexus")

    plain = Counters(name="plain")
    assert scan() is None
    bl.counters.plot_signal = "bl_counters_i0"
    assert scan() == {"signal": "bl_counters_i0"}
    engine.md["nexus"] = {"definition": ""}
    assert scan() == {"signal": "bl_counters_i0", "definition": ""}
    assert scan(md={"nexus": {"signal": "other"}}) == {"signal": "other", "definition": ""}
    engine(mesh_scan([bl.counters], bl.sample.y, 0, 1, 2, bl.sample.x, 0, 2, 3))
    assert docs.start["nexus"]["signal"] == "bl_counters_i0"
    assert scan(md={"nexus": "broken"}) == "broken"


def test_simulated_data_are_called_so(engine, docs, bl):
    def instrument(motor=bl.sample.x, detector=bl.counters):
        engine(linear_scan([detector], motor, 0, 1, 2))
        return docs.start.get("instrument", {})

    assert "simulated" not in instrument()
    engine.md["simulated"] = True
    assert instrument()["simulated"] is True
    assert instrument()["monochromator"]["type"] == "Si"
    alone = SoftPositioner(name="alone", init_pos=0.0)
    assert instrument(alone, Counters(name="c")) == {"simulated": True}
    engine.md["instrument"] = {"name": "mine"}
    assert instrument() == {"name": "mine", "simulated": True}
    engine.md["simulated"] = False
    assert instrument() == {"name": "mine"}


def test_the_baseline_is_not_taken_twice(engine, docs, bl):
    engine.preprocessors.append(SupplementalData(baseline=[bl.mono]))
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2))
    events = docs.events("baseline")
    assert len(events) == 2
    assert "bl_sample_x" not in events[0]["data"]


def test_no_baseline_and_no_shutter_where_they_are_not_wanted(engine, docs, bl):
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2, use_shutter=False, baseline=()))
    assert [d["name"] for d in docs.all("descriptor")] == ["primary"]
    assert not [entry for entry in LOG if entry[0] == "shutter"]


def test_a_motor_of_its_own_can_be_scanned(engine, docs, bl):
    motor = SoftPositioner(name="alone", init_pos=0.0)
    counters = Counters(name="c")
    engine(linear_scan([counters], motor, 0, 1, 3))
    assert len(docs.events("primary")) == 3
    assert "sample" not in docs.start


def test_the_exposure_is_set_for_the_scan_only(engine, docs, bl):
    engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2, exposure=0.25))
    assert [entry for entry in LOG if entry[0] == "count"] == [("count", 0.25)] * 2
    assert bl.counters.exposure.get() == 1.0
    with pytest.raises(ValueError, match="none of the detectors"):
        engine(linear_scan([bl.sample.y], bl.sample.x, 0, 1, 2, exposure=0.25))
    with pytest.raises(ValueError, match="greater than 0 s"):
        engine(linear_scan([bl.counters], bl.sample.x, 0, 1, 2, exposure=0.0))


@pytest.mark.parametrize("snake", [True, False])
def test_mesh_scan(engine, docs, bl, snake):
    engine(mesh_scan([bl.counters], bl.sample.y, 0, 1, 2, bl.sample.x, 0, 2, 3, snake=snake))
    visited = [(e["data"]["bl_sample_y"], e["data"]["bl_sample_x"]) for e in docs.events("primary")]
    second_row = [2, 1, 0] if snake else [0, 1, 2]
    assert visited == [(0, 0), (0, 1), (0, 2), *((1, x) for x in second_row)]
    start = docs.start
    assert (start["shape"], start["extents"]) == ([2, 3], [[0, 1], [0, 2]])
    assert start["snaking"] == [False, snake]
    assert start["num_points"] == 6
    assert [fields for fields, _ in start["hints"]["dimensions"]] == [
        ["bl_sample_y"], ["bl_sample_x"],
    ]  # fmt: skip
    # The slow motor does not move within a row.
    assert [entry[2] for entry in LOG if entry[:2] == ("move", "bl_sample_y")] == [0, 1]


def test_a_mesh_of_one_motor_is_refused(engine, bl):
    with pytest.raises(ValueError, match="two motors"):
        engine(mesh_scan([bl.counters], bl.sample.x, 0, 1, 2, bl.sample.x, 0, 2, 3))


class LimitedSignal(Signal):
    limits = (0.001, 100.0)
    setpoint_pvname = "BL99:SCALER1.TP"


class LimitedCounters(Counters):
    exposure = Cpt(LimitedSignal, value=1.0, kind="normal")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"motor": "mono"},
            "motor must be a motor, but bl_mono is not a motor; did you mean bl_mono.energy?",
        ),
        (
            {"motor": "sample"},
            "motor must be a motor, but bl_sample is not a motor; did you mean bl_sample.x or "
            "bl_sample.y?",
        ),
        (
            {"motor": "counters"},
            "motor must be a motor, but bl_counters is not a motor, it can't be moved.",
        ),
        (
            {"motor": ["sample.x"]},
            "motor must be a motor, such as bl.sample.x, found ['sample.x'].",
        ),
        (
            {"motor": b"sample.x"},
            "motor must be a motor, found b'sample.x': give the device itself, such as "
            "bl.sample.x.",
        ),
        (
            {"detectors": "counters"},
            "detectors must be a list of devices, found bl_counters alone: put it into brackets, "
            "[bl_counters].",
        ),
        (
            {"detectors": ["counters"]},
            "detectors[0] must be a device, found the text 'counters': give the device itself, "
            "such as bl.counters.",
        ),
        (
            {"detectors": 5},
            "detectors must be a list of devices, such as [bl.counters], found 5.",
        ),
        ({"start": "0"}, "start must be a finite number, found '0'."),
        ({"stop": None}, "stop must be a finite number, found None."),
        (
            {"num": 2.5},
            "num, the number of points, must be a whole number from 1 to 1000000, found 2.5.",
        ),
        (
            {"num": "3"},
            "num, the number of points, must be a whole number from 1 to 1000000, found '3'.",
        ),
        ({"exposure": "1"}, "exposure must be a finite number, found '1'."),
        (
            {"exposure": 5000},
            "exposure must be 0.001 to 100 s for c (BL99:SCALER1.TP), found 5000 s.",
        ),
        (
            {"sample": 5},
            'sample must be a name, such as "Cu foil", or a mapping with "name", found 5.',
        ),
        (
            {"md": {"uid": "x", "time": 0}},
            "md must not have the key 'uid' or 'time', which every start document has from "
            "bluesky, found uid='x', time=0: choose another name.",
        ),
        (
            {"md": "test"},
            "md must be a mapping of names to values, such as {'purpose': 'test'}, found the text "
            "'test'.",
        ),
        (
            {"baseline": ["mono"]},
            "baseline[0] must be a device, found the text 'mono': give the device itself, such as "
            "bl.counters.",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence_before_anything_happens(
    engine, docs, bl, changes, sentence
):
    counters = LimitedCounters(name="c")
    arguments = {"detectors": [counters], "motor": bl.sample.x, "start": 0, "stop": 1, "num": 2}
    arguments |= {
        key: getattr(bl, value) if isinstance(value, str) and hasattr(bl, value) else value
        for key, value in changes.items()
    }
    with pytest.raises(PlanArgumentError) as caught:
        engine(linear_scan(**arguments))
    assert str(caught.value) == sentence
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)
    assert LOG == []
    assert docs.seen == []


def test_other_plans_name_their_arguments(engine, docs, bl):
    x, y, counters = bl.sample.x, bl.sample.y, LimitedCounters(name="c")
    with pytest.raises(PlanArgumentError, match="slow_motor must be a motor"):
        engine(mesh_scan([counters], bl.mono, 0, 1, 2, x, 0, 1, 2))
    with pytest.raises(PlanArgumentError, match="fast_stop must be"):
        engine(mesh_scan([counters], y, 0, 1, 2, x, 0, "1", 2))
    with pytest.raises(PlanArgumentError, match="snake must be True or False, found 'no'"):
        engine(mesh_scan([counters], y, 0, 1, 2, x, 0, 1, 2, snake="no"))
    with pytest.raises(PlanArgumentError, match="area_detector must be a device"):
        engine(stills([bl.counters], 2))
    with pytest.raises(PlanArgumentError, match="beamline must be the whole beamline"):
        engine(xafs_scan(bl.counters, "Cu"))
    with pytest.raises(PlanArgumentError, match="e0 must be a finite number, found '8979'"):
        engine(xafs_scan(bl, "Cu", e0="8979"))
    with pytest.raises(PlanArgumentError, match="regions must be a list"):
        engine(xafs_scan(bl, "Cu", regions=5))
    with pytest.raises(PlanArgumentError, match=r"dwell time must be 0\.001 to 100 s for c"):
        engine(xafs_scan(bl, "Cu", regions=[(0, 5, 1, 200.0)], detectors=[counters]))
    assert LOG == []
    assert docs.seen == []


def test_a_detector_that_is_given_twice_is_read_once(engine, docs, bl):
    engine(linear_scan([bl.counters, bl.counters], bl.sample.x, 0, 1, 2))
    assert docs.start["detectors"] == ["bl_counters"]
    assert len([entry for entry in LOG if entry[0] == "count"]) == 2
    LOG.clear()
    engine(stills(bl.counters, 2, detectors=(bl.counters,)))
    assert len([entry for entry in LOG if entry[0] == "count"]) == 2


def test_xafs_scan(engine, docs, bl):
    regions = [(-10, 0, 5, 0.1), (0, 4, 2, 0.2), (1.03, 2, 0.5, 0.2, "k")]
    engine(xafs_scan(bl, "Cu", regions=regions))
    start, events = docs.start, docs.events("primary")
    assert (start["element"], start["edge"], start["e0"]) == ("Cu", "K", 8979.0)
    assert start["mode"] == "transmission"
    assert start["num_points"] == len(events)
    energy = np.array([e["data"]["bl_mono_energy"] for e in events])
    np.testing.assert_allclose(energy[:5] - 8979, [-10, -5, 0, 2, 4])
    assert [e["data"]["bl_counters_exposure"] for e in events] == [0.1] * 3 + [0.2] * (
        len(events) - 3
    )
    assert bl.counters.exposure.get() == 1.0


def test_the_dwell_time_is_set_only_where_it_changes(bl):
    def dwell_times(regions, **options):
        plan = xafs_scan(bl, "Cu", regions=regions, **options)
        return [
            message.args[0]
            for message in plan
            if message.command == "set" and message.obj is bl.counters.exposure
        ]

    assert dwell_times([(0, 5, 1, 0.1), (5, 9, 1, 0.2), (9, 12, 1, 0.2)]) == [0.1, 0.2, 1.0]
    assert dwell_times([(0, 5, 1)], dwell=0.5) == [0.5, 1.0]
    assert dwell_times([(0, 5, 1)]) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("cu",), ("Cu", "K", 8979.0)),
        (("Au",), ("Au", "L3", 11919.0)),
        (("Au", "L2"), ("Au", "L2", 13734.0)),
    ],
)
def test_edges_come_from_the_tables(engine, docs, bl, arguments, expected):
    engine(xafs_scan(bl, *arguments, regions=[(0, 2, 1)]))
    assert tuple(docs.start[key] for key in ("element", "edge", "e0")) == expected


def test_an_edge_energy_names_its_element(engine, docs, bl):
    engine(xafs_scan(bl, e0=8980.1, regions=[(0, 2, 1)]))
    assert (docs.start["element"], docs.start["edge"], docs.start["e0"]) == ("Cu", "K", 8980.1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "element"),
        (("Xx",), {}, "'Xx' is not"),
        (("Cu", "L9"), {}, "Cu has no 'L9' edge"),
        (("Cu",), {"e0": -1.0}, "e0"),
        (("Cu",), {"mode": "both"}, "mode"),
        (("Cu",), {"regions": [(0, 1, 1), (5, 2, 1)]}, "region 2"),
        (("Cu",), {"dwell": 0.0}, "dwell"),
    ],
)
def test_wrong_xafs_arguments_stop_everything(engine, docs, bl, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        engine(xafs_scan(bl, *arguments, **options))
    assert LOG == []
    assert docs.seen == []


def test_limits_are_checked_before_anything_moves(engine, docs, bl):
    with pytest.raises(MotorLimitError) as caught:
        engine(linear_scan([bl.counters], bl.sample.x, 0, 200, 5))
    assert str(caught.value) == (
        "bl_sample_x cannot go to 150 um: its limits are -100 to 100 um, 2 of 5 points lie "
        "outside; nothing has moved."
    )
    with pytest.raises(MotorLimitError, match=r"bl_sample_y.*bl_sample_x"):
        engine(mesh_scan([bl.counters], bl.sample.y, 0, 200, 5, bl.sample.x, -200, 0, 5))
    with pytest.raises(MotorLimitError, match="bl_mono_energy cannot go to"):
        engine(xafs_scan(bl, "Zr", e0=19900.0))
    assert LOG == []
    assert docs.seen == []


def test_an_error_leaves_everything_safe(engine, docs, bl):
    bl.sample.x.fails_at = 5
    with pytest.raises(FailedStatus):
        engine(linear_scan([bl.counters], bl.sample.x, -10, 10, 5, exposure=0.25))
    assert docs.stop["exit_status"] == "fail"
    assert len(docs.events("primary")) == 3
    assert LOG.index(("stop", "bl_sample_x")) < LOG.index(("shutter", "Close"))
    assert ("unstage", "bl_counters") in LOG
    assert bl.counters.exposure.get() == 1.0
    assert bl.shutter.status.get() == 0


def test_an_error_in_a_consumer_leaves_everything_safe(engine, docs, bl):
    def consumer(name, doc):
        raise OSError("disk full")

    engine.subscribe(consumer, "start")
    with pytest.raises(OSError, match="disk full"):
        engine(linear_scan([bl.counters], bl.sample.x, -10, 10, 5))
    assert [entry[:2] for entry in LOG] == [
        ("shutter", "Open"),
        ("stop", "bl_sample_x"),
        ("shutter", "Close"),
        ("unstage", "bl_counters"),
    ]


def test_a_shutter_that_does_not_close_fails_the_run(engine, docs, bl):
    def refuse(value):
        if value == "Close":
            raise RuntimeError("the shutter is stuck")
        return bl.shutter.status.set(1)

    bl.shutter.set = refuse
    with pytest.raises(RuntimeError, match="stuck"):
        engine(linear_scan([bl.counters], bl.sample.x, -10, 10, 5))
    assert docs.stop["exit_status"] == "fail"
    assert "stuck" in docs.stop["reason"]


def pausing_after_event(number, plan):
    """The plan, with a deferred pause as Ctrl-C asks for it after so many events."""
    saved = []

    def insert(message):
        if message.command == "save":
            saved.append(message)
            if len(saved) == number:
                return None, bps.deferred_pause()
        return None, None

    return bpp.plan_mutator(plan, insert)


def test_abort_leaves_everything_safe(engine, docs, bl):
    # The first event is the baseline's.
    with pytest.raises(RunEngineInterrupted):
        engine(pausing_after_event(4, linear_scan([bl.counters], bl.sample.x, -10, 10, 5)))
    assert len(docs.events("primary")) == 3
    engine.abort(reason="enough")
    assert docs.stop["exit_status"] == "abort"
    assert docs.stop["reason"] == "enough"
    assert bl.shutter.status.get() == 0


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize(
    ("request_name", "arguments", "status", "reason"),
    [
        ("abort", (), "abort", "the user asked the RunEngine to abort"),
        ("abort", ("coffee",), "abort", "coffee"),
        ("stop", (), "success", "the user asked the RunEngine to stop"),
        ("halt", (), "abort", "the user asked the RunEngine to halt"),
    ],
)
def test_an_ended_run_says_why(
    docs, bl, tmp_path, recording, request_name, arguments, status, reason
):
    if recording:
        store = DataStore(tmp_path, writers=("nexus", "cxi", "xpcs"))
        engine = make_run_engine(store, live_table=False, progress=False)
    else:
        engine = RunEngine({}, context_managers=[])
    engine.subscribe(docs)
    with pytest.raises(RunEngineInterrupted):
        engine(pausing_after_event(4, linear_scan([bl.counters], bl.sample.x, -10, 10, 5)))
    getattr(engine, request_name)(*arguments)
    assert (docs.stop["exit_status"], docs.stop["reason"]) == (status, reason)
    # bluesky allows no clean-up after a halt.
    assert bl.shutter.status.get() == int(request_name == "halt")


def test_a_paused_scan_goes_on(engine, docs, bl):
    with pytest.raises(RunEngineInterrupted):
        engine(pausing_after_event(4, linear_scan([bl.counters], bl.sample.x, -10, 10, 5)))
    engine.resume()
    assert [e["data"]["bl_sample_x"] for e in docs.events("primary")] == [-10, -5, 0, 5, 10]
    assert docs.stop["exit_status"] == "success"


def test_stills(engine, docs, bl):
    engine(stills(bl.counters, 4, exposure=0.5))
    events = docs.events("primary")
    assert len(events) == docs.start["num_points"] == 4
    assert all(e["data"]["bl_mono_energy"] == 9000.0 for e in events)
    with pytest.raises(ValueError, match="number of points"):
        engine(stills(bl.counters, 0))


def test_safe_state(engine, bl):
    engine(safe_state(bl))
    assert LOG[:3] == [("stop", axis.name) for axis in bl.axes]
    assert ("shutter", "Close") in LOG


def test_plans_can_be_looked_at_without_a_run_engine(bl, capsys):
    summarize_plan(linear_scan([bl.counters], bl.sample.x, 0, 2, 3))
    summary = capsys.readouterr().out
    assert summary.count("bl_sample_x -> ") == 3
    assert summary.index("bl_shutter -> Open") < summary.index("Open Run")
    assert summary.index("bl_shutter -> Close") < summary.index("Close Run")
    assert LOG == []


def test_plans_are_what_tools_look_for():
    import inspect

    import beamline.plans

    for name in beamline.plans.__all__:
        plan = getattr(beamline.plans, name)
        assert inspect.isgeneratorfunction(plan)
        assert "Parameters" in plan.__doc__
        # bluesky-queueserver takes annotations as they stand: text would be a type of that name.
        for parameter in inspect.signature(plan).parameters.values():
            assert not isinstance(parameter.annotation, str), parameter


def test_a_lost_link_is_not_taken_for_a_lost_beam():
    current = SimpleNamespace(
        pvname="BL99:RING:CURRENT", value=400.0,
        alarm_status=AlarmStatus.COMM, alarm_severity=AlarmSeverity.INVALID,
    )  # fmt: skip
    shutter = SimpleNamespace(parent=SimpleNamespace(ring=SimpleNamespace(current=current)))

    def body():
        yield Msg("create", None, name="primary")

    with pytest.raises(ConnectionLostError, match="is the device server running") as caught:
        list(watching_beam(body(), shutter))
    assert "BL99:RING:CURRENT is in alarm (COMM, INVALID)" in str(caught.value)
    assert "suspender" not in str(caught.value)
