"""Models that say which pixels are peaks: (N, 1, ss, fs) float32 in, two-class logits out.

A model is any callable that takes images (N, 1, H, W) float32 and returns logits (N, 2, H, W)
float32, class 1 = peak. `load_model` makes one by name, or by ``module:factory``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.crystallography.segmentation import BACKGROUND_WINDOW, LocalThreshold

__all__ = [
    "LocalBackground",
    "Model",
    "ModelError",
    "OnnxModel",
    "check_model",
    "load_model",
    "spot_network",
]

FloatArray = npt.NDArray[np.float32]

#: A network is given so many pixels at a time: bounds the memory of its layers.
_PIXELS_AT_ONCE = 1 << 20


class ModelError(BeamlineError, RuntimeError):
    """A model failed, or answered with something that is no logits."""


class Model(Protocol):
    """Anything that makes logits of images."""

    def __call__(self, images: FloatArray, /) -> FloatArray:
        """Return logits (N, 2, H, W) float32 of images (N, 1, H, W) float32."""
        ...


class LocalBackground:
    """Segmentation by significance over the local background; needs no weights.

    Logits are half the log odds of `LocalThreshold`, once with each sign, so that class 1 exceeds
    class 0 exactly on its peak pixels.

    Parameters
    ----------
    threshold, gain, window, rim
        As for `LocalThreshold`.
    """

    def __init__(
        self,
        *,
        threshold: float = 5.0,
        gain: float = 1.0,
        window: int = BACKGROUND_WINDOW,
        rim: float = 0.1,
    ) -> None:
        self._segment = LocalThreshold(threshold=threshold, gain=gain, window=window, rim=rim)

    def __call__(self, images: FloatArray) -> FloatArray:
        """Return logits (N, 2, H, W) of images (N, 1, H, W)."""
        logits = np.empty((len(images), 2, *images.shape[2:]), np.float32)
        for image, (background, peak) in zip(images[:, 0], logits, strict=True):
            np.multiply(self._segment(image), np.float32(0.5), out=peak)
            np.negative(peak, out=background)
        return logits


class OnnxModel:
    """A network in an ONNX file, run by ONNX Runtime.

    Its input is (N, 1, H, W) float32, its output (N, 2, H, W) float32.

    Parameters
    ----------
    path
        The file.
    gain
        Image units per photon: images are divided by it.
    threads
        CPU threads of one call.
    providers
        Execution providers of ONNX Runtime, such as ``CUDAExecutionProvider``, the preferred one
        first.

    Raises
    ------
    ConfigurationError
        If ONNX Runtime is missing, or the file is no such network.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        gain: float = 1.0,
        threads: int = 1,
        providers: list[str] | None = None,
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigurationError(
                f"the network {path} needs ONNX Runtime, which is not installed: pip install "
                "'beamline-dataflow[onnx]'."
            ) from None
        if not gain > 0.0:
            raise ConfigurationError(f"gain must be positive, found {gain}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=providers or ["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  (its errors have no common base)
            raise ConfigurationError(
                f"ONNX Runtime can't use {path}: {' '.join(str(error).split())}"
            ) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise ConfigurationError(
                f"the network {path} must have one input (N, 1, H, W) float32, found "
                f"{[(i.shape, i.type) for i in inputs]}."
            )
        self.path = Path(path)
        self._input, self._output = inputs[0].name, outputs[0].name
        self._gain = np.float32(gain)

    def __call__(self, images: FloatArray) -> FloatArray:
        """Return logits (N, 2, H, W) of images (N, 1, H, W)."""
        number, _, height, width = images.shape
        logits = np.empty((number, 2, height, width), np.float32)
        step = max(1, _PIXELS_AT_ONCE // max(height * width, 1))
        for start in range(0, number, step):
            part = images[start : start + step]
            if self._gain != 1.0:
                part = part / self._gain
            (found,) = self._session.run([self._output], {self._input: part})
            if found.shape != (len(part), 2, height, width):
                raise ModelError(
                    f"the network {self.path} returned {found.shape} for {len(part)} images of "
                    f"{height} x {width}, expected {(len(part), 2, height, width)}."
                )
            logits[start : start + step] = found
        return logits


def spot_network(**options: Any) -> OnnxModel:
    """Return the small network that comes with this package, trained on simulated stills.

    Parameters
    ----------
    **options
        As for `OnnxModel`.
    """
    return OnnxModel(Path(str(files("beamline.streaming") / "spot_network.onnx")), **options)


_MODELS: Mapping[str, Callable[..., Model]] = {
    "local-background": LocalBackground,
    "spot-network": spot_network,
    "onnx": OnnxModel,
}


def load_model(name: str = "local-background", **options: Any) -> Model:
    """Make a model.

    Parameters
    ----------
    name
        ``local-background``, ``spot-network``, ``onnx`` (with the option `path`), a path that ends
        in ``.onnx``, or ``module:factory``.
    **options
        Of the model.

    Raises
    ------
    ConfigurationError
        If there is no such model, or it does not take these options.
    """
    if name.endswith(".onnx"):
        factory: Any = OnnxModel
        options = {"path": name, **options}
    else:
        factory = _MODELS.get(name) or _imported(name)
    _check_options(name, factory, options)
    model: Model = factory(**options)
    if not callable(model):
        raise ConfigurationError(f"{name!r} made a {type(model).__name__}, which is no model.")
    return model


def check_model(name: str, options: Mapping[str, Any]) -> None:
    """Look whether `load_model` would know a model, without making it or importing anything.

    Raises
    ------
    ConfigurationError
        If there is no such model, or it does not take these options.
    """
    if name.endswith(".onnx"):
        _check_options(name, OnnxModel, {"path": name, **options})
    elif name in _MODELS:
        _check_options(name, _MODELS[name], options)
    elif ":" not in name:
        raise _unknown(name)


def _check_options(name: str, factory: Any, options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ConfigurationError(f"the options of model {name!r} are wrong: {error}.") from None
    except ValueError:
        pass  # a factory without a signature says itself what it takes


def _unknown(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is no model {name!r}: expected {', '.join(_MODELS)}, an .onnx file or "
        "'module:factory'."
    )


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise _unknown(name)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the model {name!r} can't be imported: {error}.") from None
