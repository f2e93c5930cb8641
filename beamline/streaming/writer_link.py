"""The coordinator's side of the writer actor: what was handed over, and its life and death."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from beamline.crystallography.geometry import Detector
from beamline.streaming.in_flight import Block
from beamline.streaming.receipts import FileSettings, Receipt

__all__ = ["WriterLink", "describe", "is_loss"]

_log = logging.getLogger(__name__)

#: Calls that may be under way: the next batch is there when one is written.
_CALLS = 4
#: Seconds between looks at files that may be due.
_POLL = 0.2
#: Seconds before a writer that failed is made again; doubled up to the last.
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class WriterLink:
    """Start a writer actor, hand blocks over, notice its death and begin again.

    Parameters
    ----------
    settings, detector
        Of the actor.

    Attributes
    ----------
    unwritten : dict[int, Block]
        Blocks with hits that are in no complete file, by token.
    deaths : int
        How often the actor died or failed.
    blocked : str
        Why it can't write at present; empty if it can.
    last_failure : str
        Why it died or failed.
    lost : list[Block]
        Blocks whose images can't be had any more; whoever looks takes them out.
    """

    def __init__(self, settings: FileSettings, detector: Detector) -> None:
        self.unwritten: dict[int, Block] = {}
        self.deaths = 0
        self.blocked = ""
        self.last_failure = ""
        self.lost: list[Block] = []
        self._settings, self._detector = settings, detector
        self._calls: dict[Any, Block | None] = {}
        self._again: list[Block] = []
        self._polled = 0.0
        self._pause = _PAUSE
        self._not_before = 0.0
        self._actor: Any = self._start()

    @property
    def calls(self) -> list[Any]:
        """References of the answers that are awaited."""
        return list(self._calls)

    @property
    def room(self) -> bool:
        """Whether a further block can be handed over now."""
        return len(self._calls) < _CALLS and not self.blocked and not self._again

    @property
    def alive(self) -> bool:
        """Whether there is an actor at present."""
        return self._actor is not None

    def submit(self, block: Block) -> None:
        """Hand the hits of a block over that are not written."""
        self.unwritten[block.token] = block
        if self._actor is None:
            self._again.append(block)
            return
        assert block.batch is not None  # noqa: S101  (only searched blocks have hits)
        batch = replace(block.batch, events=list(block.unwritten.values()))
        logits = block.item.logits if self._settings.maps else None
        call = self._actor.submit_processed_batch.remote(
            block.token, batch, block.item.images, logits
        )
        self._calls[call] = block

    def poll(self, *, complete: bool = False) -> bool:
        """Ask for what was completed, every now and then if nothing else is under way that tells.

        Parameters
        ----------
        complete
            Complete open files, whatever their age; as soon as nothing else is under way.

        Returns
        -------
        bool
            Whether it was asked, or there is nothing to ask for.
        """
        now = time.monotonic()
        if self._actor is None or self._calls or (now - self._polled < _POLL and not complete):
            return False
        self._polled = now
        if self.unwritten:
            call = self._actor.complete_files if complete else self._actor.poll
            self._calls[call.remote()] = None
        return True

    def receive(self, ready: set[Any]) -> Iterator[Receipt]:
        """Yield the receipts among answers that are there; a failed actor is ended.

        Afterwards `alive` tells whether it still is.
        """
        import ray

        for answer in [call for call in self._calls if call in ready]:
            block = self._calls.pop(answer)
            try:
                receipt: Receipt = ray.get(answer)
            except Exception as error:  # noqa: BLE001  (Ray raises what the actor raised)
                if block is not None and is_loss(error):
                    self.unwritten.pop(block.token, None)
                    self.lost.append(block)
                    continue
                self._end(describe(error))
                return
            self.blocked = receipt.blocked
            self._pause = _PAUSE
            yield receipt

    def revive(self) -> bool:
        """Start a new actor for one that is dead, not too often; return whether that was done."""
        if self._actor is not None or time.monotonic() < self._not_before:
            return False
        self._actor = self._start()
        again, self._again = list(self.unwritten.values()), []
        for block in again:
            self.submit(block)
        return True

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            self._kill()

    def _start(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from beamline.streaming import file_writer

        # The output directory is one of the machine that the command runs on.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = file_writer.CXIFileWriterActor.options(
            num_cpus=0, max_restarts=0, scheduling_strategy=here
        )
        return actor.remote(self._settings, self._detector)

    def _end(self, reason: str) -> None:
        self.deaths += 1
        self.last_failure = (
            f"the file writer failed ({reason}); a new one takes over the "
            f"{len(self.unwritten)} blocks that it had not completed."
        )
        _log.error("%s", self.last_failure)
        self._kill()
        self.blocked = ""
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _kill(self) -> None:
        import ray

        ray.kill(self._actor, no_restart=True)
        self._actor = None
        self._calls.clear()


def is_loss(error: BaseException) -> bool:
    """Whether arrays that were referred to can't be had any more."""
    from ray.exceptions import ObjectLostError

    return any(isinstance(inner, ObjectLostError) for inner in _causes(error))


def describe(error: BaseException) -> str:
    """Say in one line what Ray, or what it ran, raised."""
    *_, last = _causes(error)
    lines = str(last).strip().splitlines()
    return f"{type(last).__name__}: {lines[0].rstrip('.') if lines else 'no message'}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    inner: Any = error
    while isinstance(inner, BaseException):
        yield inner
        inner = getattr(inner, "cause", None)
