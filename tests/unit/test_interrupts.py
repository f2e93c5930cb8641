"""Signals become a wish, granted at a safe point."""

import os
import signal
import threading
import time

import pytest
from bluesky import RunEngine
from bluesky.plan_stubs import sleep
from bluesky.preprocessors import finalize_wrapper, run_wrapper
from bluesky.utils import RunEngineInterrupted

from beamline.interrupts import AbortOnInterrupt, Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_a_safe_point(number: signal.Signals):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(number) is before


def test_the_second_signal_does_not_wait():
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with Interrupts(), pytest.raises(KeyboardInterrupt):
        twice()


def test_a_running_plan_is_aborted_and_cleans_up():
    engine = RunEngine(context_managers=[AbortOnInterrupt])
    stops, cleaned = [], []
    engine.subscribe(lambda name, doc: stops.append(doc), "stop")

    def clean():
        cleaned.append(True)
        yield from sleep(0)

    def interrupted():
        # Not before the plan runs: until then a signal would end the tests.
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        yield from sleep(60)

    with pytest.raises(RunEngineInterrupted):
        engine(finalize_wrapper(run_wrapper(interrupted()), clean))
    assert engine.state == "idle"
    assert [doc["exit_status"] for doc in stops] == ["abort"]
    assert cleaned == [True]
