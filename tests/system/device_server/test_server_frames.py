"""The area detector of the device server: frames, their truth, and a consumer that is slow."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from device_client import (
    TIME_SCALE,
    Client,
    FrameClient,
    Subscriber,
    wait,
)

pytestmark = pytest.mark.system


def spots(client: Client, frame: int) -> list[tuple[float, float, float]]:
    reply = client.ask(f"TRUTH:AD1:{frame}")
    assert reply.startswith("OK:"), reply
    count, *rest = reply[3:].split(";")
    found = [tuple(map(float, item.split(","))) for item in rest]
    assert len(found) == int(count)
    return found  # type: ignore[return-value]


def test_frames_show_the_spots_of_the_truth(client: Client, port: int) -> None:
    client.open_shutter()
    first = int(client.get("AD1:TOTAL"))
    with FrameClient(port) as consumer, Subscriber(port, "BL02:AD1:*") as follower:
        begun = time.monotonic()
        assert client.ask("ACQUIRE:5") == "OK:ACQUIRING"
        assert client.ask("ACQUIRE:5") == "ERR:BUSY"
        assert client.ask("PUT:BL02:AD1:EXPOSURE:1") == "ERR:BUSY"
        frames = [consumer.frame() for _ in range(5)]
        done = follower.until("AD1:ACQUIRING", "0")
        assert done["BL02:AD1:COUNTER"] == "5"
        assert time.monotonic() - begun >= 0.5 / TIME_SCALE
        for n, (header, image) in enumerate(frames):
            assert header["number"] == first + n
            assert header["index"] == n
            assert header["energy"] == 9000
            assert header["exposure"] == 0.1
            assert abs(header["time"] - time.time()) < 60
            visible = spots(client, first + n)
            assert len(visible) > 10
            strong = [spot for spot in visible if spot[2] > 300]
            assert strong
            background = np.median(image)
            for fs, ss, photons in strong:
                x, y = round(fs), round(ss)
                patch = image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].astype(float)
                assert patch.sum() - background * patch.size > 0.4 * photons
        assert not np.array_equal(frames[0][1], frames[1][1])
    wait(lambda: client.ask("ACQUIRE:1") == "ERR:NO_CONSUMER")
    assert client.ask(f"TRUTH:AD1:{first + 5}") == "ERR:INVALID_VALUE"


def test_frames_are_dark_behind_a_closed_shutter(client: Client, port: int) -> None:
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1")
        header, image = consumer.frame()
        assert not image.any()
        assert spots(client, int(header["number"])) == []


def test_the_detector_waits_for_its_consumer(client: Client, port: int) -> None:
    client.do("PUT:BL02:AD1:EXPOSURE:0.01")
    waited = client.get("AD1:WAITED")
    with FrameClient(port) as consumer:
        with Client(port) as second:
            assert second.ask("FRAMES") == "ERR:BUSY"
        client.do("ACQUIRE:60")
        time.sleep(0.7)  # longer than the patience with ordinary clients
        assert client.get("AD1:ACQUIRING") == 1
        assert client.get("AD1:WAITED") > waited
        indices = [consumer.frame()[0]["index"] for _ in range(60)]
        assert indices == list(range(60))
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert client.get("AD1:LOST") == 0
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


def test_acquisition_can_be_stopped_and_paced(client: Client, port: int) -> None:
    client.do("PUT:BL02:AD1:EXPOSURE:0.01")
    client.do("PUT:BL02:AD1:PERIOD:2")
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1000")
        times = [consumer.frame()[0]["time"] for _ in range(4)]
        assert np.diff(times) == pytest.approx(2 / TIME_SCALE, abs=0.05)
        client.do("ACQSTOP")
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert client.get("AD1:COUNTER") < 10
    client.do("PUT:BL02:AD1:PERIOD:0")
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


def test_a_lost_consumer_ends_the_acquisition(client: Client, port: int) -> None:
    consumer = FrameClient(port)
    with Subscriber(port, "BL02:AD1:*") as follower:
        client.do("ACQUIRE:100000")
        consumer.frame()
        consumer.reset()
        done = follower.until("AD1:ACQUIRING", "0")
        assert done["BL02:AD1:LOST"] == "1"
    wait(lambda: client.ask("ACQUIRE:1") == "ERR:NO_CONSUMER")
    with FrameClient(port) as next_one:
        wait(lambda: client.ask("ACQUIRE:1") == "OK:ACQUIRING")
        next_one.frame()
        assert client.get("AD1:LOST") == 0


def test_frames_do_not_delay_commands(client: Client, port: int) -> None:
    client.open_shutter()
    client.do("PUT:BL02:AD1:EXPOSURE:0.001")
    stop = threading.Event()

    def consume() -> None:
        with FrameClient(port) as consumer, Client(port) as control:
            control.do("ACQUIRE:1000000")
            while not stop.is_set():
                consumer.frame()

    consuming = threading.Thread(target=consume)
    consuming.start()
    try:
        wait(lambda: client.get("AD1:COUNTER") > 5)
        delays = []
        for _ in range(200):
            begun = time.perf_counter()
            client.do("PING")
            delays.append(time.perf_counter() - begun)
        assert np.quantile(delays, 0.9) < 0.02
    finally:
        stop.set()
        consuming.join()
    wait(lambda: client.get("AD1:ACQUIRING") == 0)
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")
