"""The inference stage P: items of Q1 in, logits out to Q2.

.. mermaid::

    flowchart LR
        q1[("Q1: frames by reference")] -- lease --> worker["worker: pad, normalise, model"]
        worker -- logits and images by reference --> q2[("Q2")]
        worker -- acknowledge, once Q2 has it --> q1

A worker that dies between the two leaves its item to another, which makes the same batch again
under the same name: consumers of Q2 know it by that name.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.streaming.items import PipelineOutput, as_array
from beamline.streaming.models import Model, ModelError, load_model
from beamline.streaming.preprocessing import Preprocessor
from beamline.streaming.queue import Lease, ShardedQueueManager

__all__ = ["InferenceStage", "InferenceWorker", "PipelineInput", "WorkerSettings", "WorkerStatus"]

_log = logging.getLogger(__name__)

_POLL = 0.5


@dataclass
class PipelineInput:
    """Frames on their way to the model: an item of Q1.

    The names are those of peaknet-pipeline-ray.

    Attributes
    ----------
    image_data
        Frames (B, C, H, W) or (B, H, W) of any real type; an array or a torch tensor.
    image_data_ref
        Ray reference to such an array, instead of `image_data`.
    metadata
        Passed on as it is: ``photon_energy`` (eV) or ``photon_wavelength`` (Å), ``timestamp``,
        ``run_uid`` and whatever the source knows of each frame.
    batch_id
        Name of the batch, unique in its run.

    Raises
    ------
    ValueError
        Unless exactly one of `image_data` and `image_data_ref` is given.
    """

    image_data: Any = None
    image_data_ref: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    batch_id: str = ""

    def __post_init__(self) -> None:
        if (self.image_data is None) == (self.image_data_ref is None):
            raise ValueError(
                "PipelineInput takes either image_data or image_data_ref, found "
                + ("neither." if self.image_data is None else "both.")
            )

    def get_numpy_array(self) -> npt.NDArray[Any]:
        """Return the frames; without a copy if they are in Ray's object store."""
        if self.image_data_ref is None:
            return as_array(self.image_data)
        import ray

        return as_array(ray.get(self.image_data_ref))


class InferenceStage:
    """Preprocessing and model, without Ray.

    Parameters
    ----------
    model
        Makes logits of images.
    preprocessor
        Pads and normalises.
    """

    def __init__(self, model: Model, preprocessor: Preprocessor) -> None:
        self._model, self._preprocessor = model, preprocessor

    def __call__(self, item: Any) -> PipelineOutput:
        """Make the item of Q2 that belongs to an item of Q1.

        Raises
        ------
        FramesError
            If its frames are none.
        ModelError
            If what the model returned are no logits of these frames.
        """
        images, metadata = self._preprocessor.images(item.get_numpy_array())
        logits = self._model(self._preprocessor.model_input(images, metadata))
        expected = (len(images), 2, *images.shape[2:])
        if not isinstance(logits, np.ndarray) or logits.shape != expected:
            raise ModelError(
                f"the model returned {getattr(logits, 'shape', type(logits).__name__)} for batch "
                f"{item.batch_id}, expected logits of shape {expected}."
            )
        return PipelineOutput(
            predictions=logits.astype(np.float32, copy=False),
            metadata=dict(item.metadata or {}),
            batch_id=item.batch_id,
            original_image_ref=images,
            preprocessing_metadata=metadata,
        )


@dataclass(frozen=True)
class WorkerSettings:
    """What an inference worker needs.

    Attributes
    ----------
    input_queue, output_queue
        Base names of Q1 and Q2; without a Q2 logits are made and dropped (to measure the speed).
    namespace
        Of their actors.
    model, model_options
        As for `load_model`.
    preprocessor
        Pads and normalises.
    items_at_once
        Items leased at a time.
    max_attempts
        Times that an item is tried if something fails that may pass.
    """

    input_queue: str
    output_queue: str | None
    namespace: str
    model: str = "local-background"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Preprocessor = field(default_factory=Preprocessor)
    items_at_once: int = 2
    max_attempts: int = 3


@dataclass
class WorkerStatus:
    """What a worker has done.

    Attributes
    ----------
    items, samples
        Handed on to Q2 (or dropped, without a Q2): items, and frames in them.
    refused
        Items that could not be processed; they are acknowledged and lost.
    busy_seconds
        Time in the model and its preprocessing.
    idle_seconds
        Since the last item.
    errors
        The last reasons of refusals.
    pid
        Process of the worker.
    """

    items: int = 0
    samples: int = 0
    refused: int = 0
    busy_seconds: float = 0.0
    idle_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    pid: int = 0


class InferenceWorker:
    """Take items of Q1 until it has ended, and put their logits on Q2; a Ray actor's class.

    Parameters
    ----------
    settings
        Queues and model.
    producer
        Name of this worker's stream on Q2; a successor under the same name goes on with it.
    """

    def __init__(self, settings: WorkerSettings, producer: str) -> None:
        self._settings = settings
        self._stage = InferenceStage(
            load_model(settings.model, **settings.model_options), settings.preprocessor
        )
        self._input = ShardedQueueManager(
            settings.input_queue, None, namespace=settings.namespace, create=False
        )
        self._output = None
        if settings.output_queue is not None:
            self._output = ShardedQueueManager(
                settings.output_queue,
                None,
                namespace=settings.namespace,
                create=False,
                producer=producer,
            )
            self._output.begin()
        self._stop = threading.Event()
        self._status = WorkerStatus(pid=os.getpid())
        self._errors: collections.deque[str] = collections.deque(maxlen=20)
        self._last = time.monotonic()

    def run(self) -> WorkerStatus:
        """Work until Q1 has ended or `stop` was called; return what was done."""
        while not self._stop.is_set():
            leases = self._input.lease(self._settings.items_at_once, timeout=_POLL)
            if not leases and self._input.ended:
                break
            for number, lease in enumerate(leases):
                if self._stop.is_set():
                    self._input.give_back(leases[number:])
                    break
                self._take(lease)
        if self._output is not None:
            self._output.end()
        return self.status()

    def stop(self) -> None:
        """Finish the item at hand, give the others back, and end."""
        self._stop.set()

    def status(self) -> WorkerStatus:
        """Return what was done so far."""
        status = self._status
        status.idle_seconds = time.monotonic() - self._last
        status.errors = list(self._errors)
        return status

    def _take(self, lease: Lease) -> None:
        began = time.monotonic()
        try:
            if lease.error is not None:
                raise lease.error
            made = self._stage(lease.item)
        except Exception as error:  # noqa: BLE001  (any model, any frames: the next item is good)
            self._fail(lease, error)
            return
        finally:
            self._last = time.monotonic()
            self._status.busy_seconds += self._last - began
        while self._output is not None and not self._output.put_wait(made, timeout=_POLL):
            if self._stop.is_set():
                self._input.give_back([lease])
                return
        self._input.ack([lease])
        self._last = time.monotonic()
        self._status.items += 1
        assert made.preprocessing_metadata is not None  # noqa: S101  (the stage makes it)
        self._status.samples += made.preprocessing_metadata.original_shape[0]

    def _fail(self, lease: Lease, error: Exception) -> None:
        # What this project raises on purpose would be raised again.
        final = isinstance(error, BeamlineError) or lease.attempt >= self._settings.max_attempts
        name = getattr(lease.item, "batch_id", "?")
        why = f"batch {name}: {type(error).__name__}: {error}"
        if not final and self._input.can_lease:
            _log.warning("%s; attempt %d, given back", why, lease.attempt)
            self._input.give_back([lease])
            return
        _log.error("%s; refused", why)
        self._status.refused += 1
        self._errors.append(why)
        self._input.ack([lease])
