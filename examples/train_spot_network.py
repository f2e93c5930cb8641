"""Train the spot network of `beamline pipeline` on simulated stills and write it as ONNX.

    python examples/train_spot_network.py spot_network.onnx [--steps 6000]

Needs JAX and the `onnx` package; the result runs with ONNX Runtime alone. The network takes photons
per pixel (N, 1, ss, fs) and returns two-class logits (N, 2, ss, fs), class 1 = peak.

Its first part has no weights. u = sqrt(x + 3/8) has a noise of one half at any brightness
(Anscombe 1948); m, the mean of u over 15 × 15 pixels, pixels above their surroundings cut off,
says what the background is. From (u - m), compressed in two ways, and m three small convolutions
tell peaks from noise. The bias of class 1 is then set such that frames never trained on give one
false peak in a hundred frames at most.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.spatial import cKDTree

from beamline.crystallography.peaks import measure_peaks
from beamline.crystallography.segmentation import box_sum, local_background
from ioc.stills import SimulatedStills

ENERGIES = (8000.0, 8750.0, 9500.0, 10250.0, 11000.0, 12000.0)
EXPOSURES = (0.0007, 0.002, 0.006, 0.02, 0.06, 0.2, 0.6)
FIRST_VALIDATION_SEED = 500
CHANNELS, WINDOW, CROP = 8, 15, 64
KERNELS = ((5, 3, CHANNELS), (3, CHANNELS, CHANNELS), (3, CHANNELS, CHANNELS), (1, CHANNELS, 2))
#: Radius of a spot's peak pixels and of the rim that counts for nothing, px.
RADIUS, RIM = 1.9, 2.7
#: Signal to noise from which a spot is to be found, and below which it is background.
WANTED, HOPELESS = 3.0, 1.5
SPOT_FWHM = 2.2


def take(seed: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Take `number` stills per energy and exposure: images and all true spots (fs, ss, photons)."""
    found = []
    for i, energy in enumerate(ENERGIES):
        with SimulatedStills(seed=seed + i, energy=energy) as stills:
            for exposure in EXPOSURES:
                stills.exposure = exposure
                found += [(s.image, s.all_spots) for s in stills.take(number)]
    return found


def label(image: np.ndarray, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels are peak (0 or 1) and how much each counts, both float32 (ss, fs)."""
    peak = np.zeros(image.shape, np.float32)
    weight = np.ones(image.shape, np.float32)
    if len(spots) == 0:
        return peak, weight
    level = np.nan_to_num(local_background(image)[0])
    column = np.clip(np.rint(spots[:, 0]).astype(int), 0, image.shape[1] - 1)
    row = np.clip(np.rint(spots[:, 1]).astype(int), 0, image.shape[0] - 1)
    background = level[row, column] * np.pi * SPOT_FWHM**2
    snr = spots[:, 2] / np.sqrt(spots[:, 2] + background + 1e-9)
    real = snr >= HOPELESS
    if not real.any():
        return peak, weight
    ss, fs = np.mgrid[: image.shape[0], : image.shape[1]]
    grid = np.c_[fs.ravel(), ss.ravel()]
    distance, nearest = cKDTree(spots[real, :2]).query(grid, k=2, distance_upper_bound=8.0)
    wanted = np.append(snr[real] >= WANTED, False)[nearest[:, 0]]
    inside = distance[:, 0] < RADIUS
    # Between two close spots there must be a gap, or they are one component.
    gap = np.isfinite(distance[:, 1]) & (distance[:, 1] < distance[:, 0] + 0.8)
    peak.ravel()[inside & wanted & ~gap] = 1.0
    unsure = (distance[:, 0] < RIM) & ~(inside & wanted)
    weight.ravel()[unsure & ~gap] = 0.0
    return peak, weight


def features(image: np.ndarray) -> np.ndarray:
    """Return what the convolutions see, float32 (ss, fs, 3)."""
    number = box_sum(np.ones(image.shape, np.float32), WINDOW)
    u = np.sqrt(np.maximum(image.astype(np.float32), 0.0) + np.float32(0.375))
    limit = box_sum(u, WINDOW) / number + np.float32(2.0)
    m = box_sum(np.minimum(u, limit), WINDOW) / number
    z = np.float32(2.0) * (u - m)
    return np.stack([np.clip(z, -4.0, 12.0) / 4.0, np.log1p(np.maximum(z, 0.0)), m], axis=-1)


def convolve(parameters: list, x: jax.Array) -> jax.Array:
    for i, (kernel, bias) in enumerate(parameters):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x + bias
        if i + 1 < len(parameters):
            x = jax.nn.relu(x)
    return x


def loss(parameters: list, x: jax.Array, peak: jax.Array, weight: jax.Array) -> jax.Array:
    logits = convolve(parameters, x)
    odds = logits[..., 1] - logits[..., 0]
    entropy = jax.nn.softplus(odds) - peak * odds
    return (weight * entropy).sum() / weight.sum()


@jax.jit
def step(parameters, moments, number, rate, x, peak, weight):
    """One step of Adam (Kingma & Ba 2014)."""
    value, gradient = jax.value_and_grad(loss)(parameters, x, peak, weight)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)

    def update(p, m, v):
        return p - rate * (m / (1 - 0.9**number)) / (jnp.sqrt(v / (1 - 0.999**number)) + 1e-8)

    return jax.tree.map(update, parameters, first, second), (first, second), value


def train(frames: list, steps: int, batch: int, seed: int) -> list:
    rng = np.random.default_rng(seed)
    inputs = [features(image) for image, _ in frames]
    labels = [label(image, spots) for image, spots in frames]
    parameters = [
        (
            jnp.asarray(rng.normal(0, np.sqrt(2 / (k * k * a)), (k, k, a, b)), jnp.float32),
            jnp.zeros(b, jnp.float32),
        )
        for k, a, b in KERNELS
    ]
    moments = (jax.tree.map(jnp.zeros_like, parameters),) * 2
    began, mean = time.time(), 0.0
    for number in range(1, steps + 1):
        crops = []
        for item in range(batch):
            which = rng.integers(len(frames))
            image, spots = frames[which]
            limit = np.array(image.shape) - CROP
            corner = rng.integers(0, limit + 1)
            if item % 2 and len(spots):
                centre = spots[rng.integers(len(spots)), 1::-1]
                corner = np.clip(centre - rng.integers(8, CROP - 8, 2), 0, limit).astype(int)
            window = np.s_[corner[0] : corner[0] + CROP, corner[1] : corner[1] + CROP]
            crop = [inputs[which][window], *(part[window] for part in labels[which])]
            if rng.random() < 0.5:
                crop = [part[::-1] for part in crop]
            if rng.random() < 0.5:
                crop = [part[:, ::-1] for part in crop]
            crops.append(crop)
        rate = 3e-3 * 0.5 * (1 + np.cos(np.pi * number / steps)) + 1e-5
        parameters, moments, value = step(
            parameters,
            moments,
            number,
            rate,
            *(np.stack(part) for part in zip(*crops, strict=True)),
        )
        mean += (float(value) - mean) / min(number, 100)
        if number % 100 == 0:
            print(f"step {number}: loss {mean:.5f}, {time.time() - began:.0f} s", flush=True)
    return parameters


def export(parameters: list, about: dict[str, str]) -> onnx.ModelProto:
    """Write features and convolutions as an ONNX graph, opset 17."""
    constants = {
        "zero": 0.0, "eighths": 0.375, "one": 1.0, "two": 2.0, "quarter": 0.25, "low": -4.0,
        "high": 12.0,
    }  # fmt: skip
    weights = [numpy_helper.from_array(np.float32(v), name) for name, v in constants.items()]
    nodes = [
        helper.make_node("Max", ["images", "zero"], ["x0"]),
        helper.make_node("Add", ["x0", "eighths"], ["x1"]),
        helper.make_node("Sqrt", ["x1"], ["u"]),
    ]
    half = WINDOW // 2

    def mean(source: str, name: str) -> None:
        across = {"kernel_shape": [1, WINDOW], "pads": [0, half, 0, half]}
        down = {"kernel_shape": [WINDOW, 1], "pads": [half, 0, half, 0]}
        for a, b, how in ((source, name + "_fs", across), (name + "_fs", name, down)):
            nodes.append(helper.make_node("AveragePool", [a], [b], count_include_pad=0, **how))

    mean("u", "m0")
    nodes.append(helper.make_node("Add", ["m0", "two"], ["limit"]))
    nodes.append(helper.make_node("Min", ["u", "limit"], ["cut"]))
    mean("cut", "m")
    nodes += [
        helper.make_node("Sub", ["u", "m"], ["d"]),
        helper.make_node("Mul", ["d", "two"], ["z"]),
        helper.make_node("Clip", ["z", "low", "high"], ["z0"]),
        helper.make_node("Mul", ["z0", "quarter"], ["f0"]),
        helper.make_node("Max", ["z", "zero"], ["z1"]),
        helper.make_node("Add", ["z1", "one"], ["z2"]),
        helper.make_node("Log", ["z2"], ["f1"]),
        helper.make_node("Concat", ["f0", "f1", "m"], ["layer0"], axis=1),
    ]
    for i, (kernel, bias) in enumerate(parameters):
        last = i + 1 == len(parameters)
        w = np.ascontiguousarray(np.transpose(kernel, (3, 2, 0, 1)))
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        weights.append(numpy_helper.from_array(np.asarray(bias), f"b{i}"))
        out = "logits" if last else f"conv{i}"
        pads = [w.shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [f"layer{i}", f"w{i}", f"b{i}"], [out], pads=pads))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"layer{i + 1}"]))
    graph = helper.make_graph(
        nodes,
        "spot_network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, "ss", "fs"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2, "ss", "fs"])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="beamline-dataflow"
    )
    model.ir_version = 8
    helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"images": image[None, None].astype(np.float32)})[0][0]


def false_peaks(odds: np.ndarray, image: np.ndarray, spots: np.ndarray) -> int:
    peaks = measure_peaks(image, odds > 0, min_pixels=2)
    if len(peaks) == 0 or len(spots) == 0:
        return len(peaks)
    distance, _ = cKDTree(spots[:, :2]).query(np.c_[peaks.fs, peaks.ss])
    return int((distance > 2.5).sum())


def calibrate(parameters: list, frames: list) -> float:
    """Return what to subtract from the log odds for one false peak in a hundred frames at most."""
    model = export(parameters, {})
    logits = [run(model, image) for image, _ in frames]
    for offset in np.arange(0.0, 12.0, 0.25):
        false = sum(
            false_peaks(found[1] - found[0] - offset, image, spots)
            for found, (image, spots) in zip(logits, frames, strict=True)
        )
        print(f"offset {offset:.2f}: {false} false peaks in {len(frames)} frames", flush=True)
        if false * 100 <= len(frames):
            return float(offset)
    raise SystemExit("the network cannot tell peaks from noise: train longer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--frames", type=int, default=4, help="per energy and exposure")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    frames = take(arguments.seed, arguments.frames)
    print(f"{len(frames)} frames, {sum(len(spots) for _, spots in frames)} spots", flush=True)
    parameters = train(frames, arguments.steps, arguments.batch, arguments.seed)
    offset = calibrate(parameters, take(FIRST_VALIDATION_SEED, 5))
    kernel, bias = parameters[-1]
    parameters[-1] = (kernel, bias - jnp.array([0.0, offset], jnp.float32))
    about = {
        "task": "two-class segmentation of Bragg spots; images in photons per pixel",
        "training": f"simulated stills, seeds {arguments.seed} to "
        f"{arguments.seed + len(ENERGIES) - 1}, {arguments.steps} steps",
        "normalise": "none",
    }
    model = export(parameters, about)
    image = frames[-1][0]
    ours = np.asarray(convolve(parameters, features(image)[None]))
    theirs = run(model, image)
    error = np.abs(ours[0].transpose(2, 0, 1) - theirs).max()
    if not error < 1e-2 * max(1.0, np.abs(ours).max()):
        raise SystemExit(f"ONNX Runtime and JAX disagree by {error}")
    onnx.save(model, arguments.output)
    print(f"{arguments.output}: offset {offset}, ONNX Runtime and JAX agree to {error:.1e}")


if __name__ == "__main__":
    main()
