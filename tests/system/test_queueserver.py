"""bluesky-queueserver on our profile: its manager, a Redis server and its client, all real."""

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from simulated_beamline import reserved_port

pytest.importorskip("bluesky_queueserver", reason="needs bluesky-queueserver (make queueserver)")
from bluesky_queueserver.manager.comms import zmq_single_request

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server on PATH"),
]

PROFILES = Path(__file__).parents[2] / "profiles"
WAIT = 120.0


def _until(reached, what):
    end = time.monotonic() + WAIT
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """The queue server with an open environment, as a function that sends it a request."""
    folder = tmp_path_factory.mktemp("queueserver")
    (folder / "profiles").symlink_to(PROFILES)
    redis, control, info = (reserved_port() for _ in range(3))
    address = f"tcp://127.0.0.1:{control}"

    def request(method, **parameters):
        answer, problem = zmq_single_request(
            method, parameters, timeout=20_000, zmq_server_address=address
        )
        assert not problem, (problem, (folder / "log").read_text())
        return answer

    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w"))
        for command in (
            ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", ""],
            [sys.executable, "-c",
             "from bluesky_queueserver.manager.start_manager import start_manager; start_manager()",
             "--config", "profiles/queueserver/config.yml",
             "--redis-addr", f"127.0.0.1:{redis}",
             "--zmq-control-addr", address, "--zmq-info-addr", f"tcp://127.0.0.1:{info}"],
        ):  # fmt: skip
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            if command[0] == "redis-server":
                _until(lambda: "Ready to accept" in (folder / "log").read_text(), "no Redis")
        _until(lambda: "ZeroMQ server is waiting" in (folder / "log").read_text(), "no manager")
        assert request("environment_open")["success"]
        _until(lambda: request("status")["worker_environment_exists"], "no environment")
        try:
            yield request
        finally:
            request("environment_close")
            _until(lambda: not request("status")["worker_environment_exists"], "still open")


USER = {"user": "tester", "user_group": "primary"}


def test_the_queue_server_lists_our_plans_and_devices(manager):
    plans = manager("plans_allowed", user_group="primary")["plans_allowed"]
    assert {"linear_scan", "mesh_scan", "fly_scan", "fly_xafs", "xafs_scan", "stills",
            "xpcs_series", "safe_state", "count", "scan", "mv"} <= set(plans)  # fmt: skip
    motor = next(p for p in plans["linear_scan"]["parameters"] if p["name"] == "motor")
    assert motor["annotation"]["type"] == "__MOVABLE__"
    assert motor["convert_device_names"]
    devices = manager("devices_allowed", user_group="primary")["devices_allowed"]
    assert {"bl", "counters", "mono", "sample", "area_detector", "shutter"} <= set(devices)
    assert devices["sample"]["components"]["x"]["is_movable"]


@pytest.mark.parametrize(
    "plan",
    [
        {"name": "linear_scan", "args": [["counters"], "sample.x", -100, 100, 3]},
        {"name": "mesh_scan", "kwargs": {"exposure": 0.01},
         "args": [["counters"], "sample.y", 0, 1, 2, "sample.x", 0, 2, 3]},
        {"name": "fly_scan", "args": ["sample.x", 0, 100, 50], "kwargs": {"flyer": "bl.flyer"}},
        {"name": "fly_xafs", "args": ["bl", "Cu"], "kwargs": {"num": 100}},
        {"name": "xafs_scan", "args": ["bl", "Cu"],
         "kwargs": {"regions": [[-20, 30, 10]], "dwell": 0.01}},
        {"name": "stills", "args": ["area_detector", 2], "kwargs": {"exposure": 0.01}},
        {"name": "xpcs_series", "args": ["area_detector", 10], "kwargs": {"exposure": 0.01}},
        {"name": "count", "args": [["counters"]], "kwargs": {"num": 3}},
        {"name": "mv", "args": ["sample.x", 0, "shutter", "Close"]},
        {"name": "safe_state", "args": ["bl"]},
    ],
    ids=lambda plan: plan["name"],
)  # fmt: skip
def test_a_plan_runs_from_the_queue(manager, plan):
    added = manager("queue_item_add", item=plan | {"item_type": "plan"}, **USER)
    assert added["success"], added["msg"]
    assert manager("queue_start")["success"]
    _until(lambda: manager("status")["manager_state"] == "idle", f"{plan} has not ended")
    last = manager("history_get")["items"][-1]
    assert last["name"] == plan["name"]
    assert last["result"]["exit_status"] == "completed", last["result"]["traceback"]
    runs = 0 if plan["name"] in ("mv", "safe_state") else 1
    assert len(last["result"]["run_uids"]) == runs


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"args": ["bl", "Cu"], "kwargs": {"mode": "reflection"}}, "mode"),
        ({"args": ["bl", "Cu"], "kwargs": {"dwell": "long"}}, "dwell"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_queue(manager, arguments, named):
    item = {"item_type": "plan", "name": "xafs_scan", **arguments}
    answer = manager("queue_item_add", item=item, **USER)
    assert not answer["success"]
    assert named in answer["msg"]


def test_a_plan_that_fails_says_why_in_the_history(manager):
    item = {"item_type": "plan", "name": "linear_scan",
            "args": [["counters"], "sample.x", 0, 100000, 3]}  # fmt: skip
    assert manager("queue_item_add", item=item, **USER)["success"]
    assert manager("queue_start")["success"]
    _until(lambda: manager("status")["manager_state"] == "idle", "the plan has not ended")
    last = manager("history_get")["items"][-1]["result"]
    assert last["exit_status"] == "failed"
    assert "SAMPLE:X" in last["msg"]
    assert manager("queue_clear")["success"]
