"""Calls to the actors of a queue: several at a time, again when an actor was restarted."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from beamline.core.errors import BeamlineError, ConnectionLostError
from beamline.streaming.topology import Topology, connect

__all__ = ["ShardCalls"]

_log = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Seconds that a call waits for an actor that Ray is restarting."""
_LONGEST_WAIT = 5.0
"""Seconds after which a waiting call is asked again, in case the actor was restarted meanwhile."""
_POLL = 0.02
"""Seconds between looks at actors that can't be waited for: the reference's."""


class ShardCalls:
    """The actors of one queue.

    Every call to an actor that can lease may be repeated: items and requests have numbers, and the
    other calls do nothing the second time.

    Parameters
    ----------
    topology
        Of the queue.
    actors
        Handles of its shards.
    """

    def __init__(self, topology: Topology, actors: list[Any]) -> None:
        self.actors = actors
        self._topology = topology
        self._waits: dict[str, dict[int, Any]] = {}

    def name(self, shard: int) -> str:
        """Return the name of a shard's actor."""
        return f"{self._topology.base_name}_shard_{shard}"

    def one(self, shard: int, call: str, *arguments: Any) -> Any:
        """Call one shard."""
        return self.each(call, {shard: arguments})[0]

    def all(self, call: str, *arguments: Any) -> list[Any]:
        """Call all shards with the same arguments."""
        return self.each(call, dict.fromkeys(range(len(self.actors)), arguments))

    def each(self, call: str, arguments: Mapping[int, tuple[Any, ...]]) -> list[Any]:
        """Call several shards at the same time.

        Raises
        ------
        ConnectionLostError
            If a shard is gone for good.
        """
        pending = {s: getattr(self.actors[s], call).remote(*a) for s, a in arguments.items()}
        return [self._answer(s, call, arguments[s], answer) for s, answer in pending.items()]

    def wait(self, call: str, seconds: float, arguments: Sequence[tuple[Any, ...]]) -> None:
        """Wait until a shard says that it is worth asking again, or cannot say so.

        Parameters
        ----------
        call
            Which call of the shards waits.
        seconds
            How long to wait at most.
        arguments
            Of the call, for each shard.
        """
        if not self._topology.can_lease:
            time.sleep(min(seconds, _POLL))
            return
        import ray

        waits = self.waits(call, arguments)
        self.drop_answered(call, ray.wait(waits, num_returns=1, timeout=seconds)[0])

    def waits(self, call: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the references that `wait` waits for, for those who wait for other things too.

        They stay the same until `drop_answered` is told which are ready; no later than after some
        seconds each of them is.
        """
        waits = self._waits.setdefault(call, {})
        for shard, actor in enumerate(self.actors):
            if shard not in waits:
                waits[shard] = getattr(actor, call).remote(_LONGEST_WAIT, *arguments[shard])
        return list(waits.values())

    def drop_answered(self, call: str, ready: Collection[Any]) -> bool:
        """Have the shards that have answered wait anew the next time; return whether any has."""
        waits = self._waits.get(call, {})
        answered = [shard for shard, answer in waits.items() if answer in ready]
        for shard in answered:
            del waits[shard]
        return bool(answered)

    def _answer(self, shard: int, call: str, arguments: tuple[Any, ...], pending: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        name = self.name(shard)
        end = time.monotonic() + _PATIENCE
        pause = 0.05
        while True:
            try:
                return ray.get(pending)
            except RayActorError as error:
                if not self._topology.can_lease or time.monotonic() > end:
                    raise ConnectionLostError(
                        f"{name} is gone ({type(error).__name__}), and what it held with it."
                    ) from error
                _log.warning("%s does not answer (%s); asking again.", name, type(error).__name__)
            except RayTaskError as error:
                if isinstance(error.cause, BeamlineError):
                    raise error.cause from None
                raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            actor = connect(self._topology.base_name, shard, self._topology.namespace)
            self.actors[shard] = actor
            pending = getattr(actor, call).remote(*arguments)
