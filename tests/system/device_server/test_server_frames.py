"""The area detector of the device server: frames, their truth, and a consumer that is slow."""

from __future__ import annotations

import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_client import (
    TIME_SCALE,
    Client,
    FrameClient,
    Subscriber,
    wait,
)

from ioc.simulator import start_device_server

pytestmark = pytest.mark.system


def spots(client: Client, frame: int | str) -> list[tuple[float, float, float]]:
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
        # Together, or the acquisition may be over before the rest comes.
        client.send(b"ACQUIRE:5\nACQUIRE:5\nPUT:BL02:AD1:EXPOSURE:1\n")
        assert [client.line() for _ in range(3)] == ["OK:ACQUIRING", "ERR:BUSY", "ERR:BUSY"]
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


def test_all_spots_are_more_than_the_visible_ones(client: Client, port: int) -> None:
    client.open_shutter()
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1")
        number = int(consumer.frame()[0]["number"])
    visible, every = spots(client, number), spots(client, f"{number}:ALL")
    assert len(every) > len(visible) > 10
    assert set(visible) < set(every)
    assert client.ask(f"TRUTH:AD1:{number}:SOME") == "ERR:INVALID_VALUE"


def test_events_are_the_photons_of_a_frame(client: Client, port: int) -> None:
    client.open_shutter()
    client.do("PUT:BL02:AD1:EXPOSURE:0.002")
    client.do("PUT:BL02:AD1:PRELOAD:2")
    images = {}
    for sparse in (0, 1):
        client.do(f"PUT:BL02:AD1:SPARSE:{sparse}")
        with FrameClient(port) as consumer:
            client.send(f"ACQUIRE:5\nPUT:BL02:AD1:SPARSE:{sparse}\n".encode())
            assert [client.line(), client.line()] == ["OK:ACQUIRING", "ERR:BUSY"]
            frames = [consumer.raw_frame() for _ in range(5)]
            wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert {frame[1] for frame in frames} == {"events" if sparse else "uint16"}
        assert {frame[2] for frame in frames} == {(512, 512)}
        images[sparse] = [frame[3] for frame in frames]
        # Two frames were drawn, and are given in turn; so is their truth.
        assert images[sparse][0] == images[sparse][2] == images[sparse][4]
        assert images[sparse][1] == images[sparse][3] != images[sparse][0]
        numbers = [int(frame[0]["number"]) for frame in frames]
        assert np.diff(numbers).tolist() == [1] * 4
        assert spots(client, numbers[4]) == spots(client, numbers[0]) != spots(client, numbers[1])
    photons = [np.frombuffer(raw, "<u2").sum() for raw in images[0]]
    events = [len(raw) / 4 for raw in images[1]]
    assert np.mean(events) == pytest.approx(np.mean(photons), rel=0.1)
    client.do("PUT:BL02:AD1:SPARSE:0")
    client.do("PUT:BL02:AD1:PRELOAD:0")
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("MODE", 3), ("MODE", 0.5), ("MODE", -1), ("SPARSE", 2), ("PRELOAD", 1025), ("PRELOAD", -1)],
)
def test_settings_out_of_range_are_refused(client: Client, name: str, value: float) -> None:
    assert client.ask(f"PUT:BL02:AD1:{name}:{value}") == "ERR:INVALID_VALUE"
    assert client.get(f"AD1:{name}") == 0


def test_bright_frames_do_not_fit_into_events(client: Client, port: int) -> None:
    client.open_shutter()
    client.do("PUT:BL02:AD1:SPARSE:1")
    before = client.get("AD1:OVERFLOWS")
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1")
        _, _, shape, raw = consumer.raw_frame()
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
    assert len(raw) / 4 == math.prod(shape) / 2
    assert client.get("AD1:OVERFLOWS") == before + 1
    client.do("PUT:BL02:AD1:SPARSE:0")


def test_a_stack_of_panels(tmp_path: Path) -> None:
    settings = tmp_path / "sim.conf"
    settings.write_text(
        "detector_nx=200\ndetector_ny=160\ndetector_panels=3\npanel_gap_px=10\n"
        "hit_probability=0.5\norientation=theta\n"
    )
    with (
        start_device_server(log=tmp_path / "log", time_scale=20, config=settings) as child,
        Client(int(child.info["port"])) as client,
        FrameClient(int(child.info["port"])) as consumer,
    ):
        detector = client.truth()["detector"]
        assert detector["shape"] == [3, 160, 200]
        assert detector["panels"] == [
            {"corner_x_px": x, "corner_y_px": y} for x, y in ((0, 0), (210, 0), (0, 170))
        ]
        assert detector["beam_centre_px"] == pytest.approx([204.5 + 2.9, 164.5 - 3.8])
        assert (detector["hit_probability"], detector["orientation"]) == (0.5, "theta")
        assert [client.get(f"AD1:{name}") for name in ("NX", "NY", "PANELS")] == [200, 160, 3]
        client.open_shutter()
        client.do("ACQUIRE:20")
        positions = set()
        for _ in range(20):
            header, stack = consumer.frame()
            assert stack.shape == (3, 160, 200)
            slab = stack.reshape(480, 200).astype(float)
            found = spots(client, int(header["number"]))
            for fs, ss, photons in found:
                x, y = round(fs), round(ss)
                patch = slab[y - 2 : y + 3, x - 2 : x + 3]
                if photons > 300:
                    assert patch.sum() - np.median(slab) * patch.size > 0.4 * photons
            positions.add(tuple(spot[:2] for spot in found))
        # The crystal does not turn; it is hit or missed.
        assert len(positions) == 2
        assert () in positions


def saxs_curve(detector: dict[str, Any], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """q and mean photons of every pixel, by the formulas of docs/protocol.md."""
    saxs = detector["saxs"]
    fs, ss = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    radius = np.hypot(fs - detector["beam_centre_px"][0], ss - detector["beam_centre_px"][1])
    two_theta = np.arctan(radius * detector["pixel_m"] / detector["distance_m"])
    q = 4 * np.pi / saxs["wavelength_A"] * np.sin(two_theta / 2)
    z = np.linspace(-4, 4, 41)
    weight = np.exp(-z * z / 2) * (1 + saxs["polydispersity"] * z) ** 6
    grid = np.linspace(0.01, q.max() * 1.01, 2000)
    x = np.outer(grid, saxs["radius_A"] * (1 + saxs["polydispersity"] * z))
    form = (weight * (3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2).sum(axis=1) / weight.sum()
    section = saxs["forward_per_cm"] * np.interp(q, grid, form) + saxs["background_per_cm"]
    solid = (detector["pixel_m"] / detector["distance_m"]) ** 2 * np.cos(two_theta) ** 3
    mean = saxs["photons_per_frame"] * section * saxs["thickness_mm"] / 10 * solid
    stop = saxs["beam_stop_px"]
    near = np.abs(radius - stop) < 0.2  # the edge of the beam stop may fall on either side
    return q, np.where(near, np.nan, np.where(radius < stop, 0.0, mean))


def test_saxs_frames_follow_the_known_curve(client: Client, port: int) -> None:
    client.open_shutter()
    client.do("PUT:BL02:AD1:MODE:1")
    before = client.truth()["detector"]["saxs"]["photons_per_frame"]
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:4")
        frames = [consumer.frame() for _ in range(4)]
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
    detector = client.truth()["detector"]
    assert detector["mode"] == "saxs"
    # The ring decays meanwhile, by a percent where the frames take their time (valgrind).
    decay = 1 - detector["saxs"]["photons_per_frame"] / before
    assert spots(client, int(frames[0][0]["number"])) == []
    _, mean = saxs_curve(detector, (512, 512))
    assert np.nanmean(mean) == pytest.approx(detector["saxs"]["mean_photons_per_pixel"], rel=1e-2)
    seen = sum(image.astype(float) for _, image in frames) / 4
    edges = np.quantile(mean[mean > 0], np.linspace(0, 1, 41))
    for low, high in itertools.pairwise(edges):
        chosen = (mean >= low) & (mean < high)
        error = 6 * math.sqrt(mean[chosen].mean() / chosen.sum() / 4)
        expected = mean[chosen].mean() * (1 + decay / 2)
        error += expected * abs(decay) / 2
        assert seen[chosen].mean() == pytest.approx(expected, rel=5e-3, abs=error)
    assert not seen[mean == 0].any()
    client.do("PUT:BL02:AD1:MODE:0")


def speckle_series(client: Client, port: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    with FrameClient(port) as consumer:
        client.do(f"ACQUIRE:{frames}")
        series = [consumer.frame() for _ in range(frames)]
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
    times = np.array([header["time"] for header, _ in series])
    return np.stack([image for _, image in series]), times


@pytest.mark.parametrize("sparse", [0, 1])
def test_speckle_frames_give_back_the_diffusion_constant(tmp_path: Path, sparse: int) -> None:
    settings = tmp_path / "sim.conf"
    settings.write_text("detector_nx=256\ndetector_ny=256\nspeckle_contrast=1\n")
    frames, exposure = 160 if not sparse else 300, 0.001
    with start_device_server(log=tmp_path / "log", time_scale=1, config=settings) as child:
        port = int(child.info["port"])
        with Client(port) as client:
            client.open_shutter()
            client.do(f"PUT:BL02:AD1:EXPOSURE:{exposure}")
            client.do("PUT:BL02:AD1:PERIOD:0.002")
            client.do(f"PUT:BL02:ATTEN:FACTOR:{0.03 if sparse else 1}")
            client.do("PUT:BL02:AD1:MODE:2")
            client.do(f"PUT:BL02:AD1:SPARSE:{sparse}")
            images, times = speckle_series(client, port, frames)
            detector = client.truth()["detector"]
    # Drawn more slowly than exposed or not: the stamps are those of the camera's own clock.
    assert np.diff(times) == pytest.approx(0.002, abs=3e-6)
    q, mean = saxs_curve(detector, (256, 256))
    bright = (mean > 0) & (q > 0.12) & (q < 0.33)
    rate = detector["speckle"]["diffusion_A2_per_s"] * q[bright] ** 2
    series = images[:, bright] / mean[bright]
    assert series.mean() == pytest.approx(1, abs=0.03)
    series /= series.mean(axis=1, keepdims=True)
    lags = np.arange(1, 12)
    found = np.array([(series[:-lag] * series[lag:]).mean() - 1 for lag in lags])
    blur = (np.sinh(rate * exposure) / (rate * exposure)) ** 2

    def theory(factor: float) -> np.ndarray:
        decay = np.exp(-2 * factor * np.outer(times[lags] - times[0], rate))
        return detector["speckle"]["contrast"] * (decay * blur).mean(axis=1)

    assert found == pytest.approx(theory(1), abs=0.06)
    factors = np.linspace(0.5, 2, 301)
    best = factors[np.argmin([((found - theory(factor)) ** 2).sum() for factor in factors])]
    assert best == pytest.approx(1, abs=0.08)


def test_the_detector_waits_for_its_consumer(client: Client, port: int) -> None:
    client.do("PUT:BL02:AD1:EXPOSURE:0.01")
    waited = client.get("AD1:WAITED")
    with FrameClient(port) as consumer:
        with Client(port) as second:
            assert second.ask("FRAMES") == "ERR:BUSY"
        client.do("ACQUIRE:60")
        wait(lambda: client.get("AD1:WAITED") > waited)
        time.sleep(0.7)  # longer than the patience with ordinary clients
        assert client.get("AD1:ACQUIRING") == 1
        headers = [consumer.frame()[0] for _ in range(60)]
        assert [header["index"] for header in headers] == list(range(60))
        assert np.diff([header["time"] for header in headers]) == pytest.approx(
            0.01 / TIME_SCALE, abs=2e-6
        )
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert client.get("AD1:LOST") == 0
        assert 0 < client.get("AD1:LATE") < 60
        client.do("ACQUIRE:1")
        consumer.frame()
        assert client.get("AD1:LATE") == 0
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")


def test_acquisition_can_be_stopped_and_paced(client: Client, port: int) -> None:
    client.do("PUT:BL02:AD1:EXPOSURE:0.01")
    client.do("PUT:BL02:AD1:PERIOD:2")
    with FrameClient(port) as consumer:
        client.do("ACQUIRE:1000")
        times = [consumer.frame()[0]["time"] for _ in range(4)]
        assert np.diff(times) == pytest.approx(2 / TIME_SCALE, abs=2e-6)
        client.do("ACQSTOP")
        wait(lambda: client.get("AD1:ACQUIRING") == 0)
        assert client.get("AD1:COUNTER") < 1000
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
        before = client.get("AD1:COUNTER")
        for _ in range(200):
            client.do("PING")
        assert client.get("AD1:COUNTER") - before < 200
    finally:
        stop.set()
        consuming.join()
    wait(lambda: client.get("AD1:ACQUIRING") == 0)
    client.do("PUT:BL02:AD1:EXPOSURE:0.1")
