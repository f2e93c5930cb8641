"""Which queues exist: the shards that a cluster knows by name, and how a new queue is made."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from beamline.core.errors import (
    ConfigurationError,
    ConnectionLostError,
    MissingError,
    StorageError,
)
from beamline.streaming.shard_actor import ShardActor, ShardSettings

__all__ = ["Topology", "connect", "create", "discover", "open_shards", "store_share"]

_SHARE_OF_STORE = 0.3
"""Of the object store, for arrays that a queue keeps mapped."""
_GIB = 1024**3
_SETTLE_SECONDS = 3.0
"""How long a queue may be in the making: the reference makes its shards one after the other."""


@dataclass(frozen=True)
class Topology:
    """What is known of a queue from outside.

    Attributes
    ----------
    base_name, namespace
        Where it is.
    num_shards
        How many shards it has.
    can_lease
        Whether its actors know leases; those of the reference do not.
    """

    base_name: str
    namespace: str
    num_shards: int
    can_lease: bool


def discover(base_name: str, *, namespace: str | None = None) -> Topology | None:
    """Return what shards a queue has; None if there is none of this name in the namespace.

    Parameters
    ----------
    base_name
        Name of the queue.
    namespace
        Where to look; by default in the caller's namespace.

    Raises
    ------
    ConfigurationError
        If shards are missing in between.
    """
    space = _namespace(namespace)
    indices = _named_shards(base_name).get(space, [])
    if not indices:
        return None
    actor = connect(base_name, indices[0], space)
    can_lease = hasattr(actor, "lease")
    if can_lease:
        # The shard knows how many there will be, also while they are being made.
        return Topology(base_name, space, _settings(actor).num_shards, can_lease)
    if indices != list(range(len(indices))):
        raise ConfigurationError(
            f"queue {base_name!r} in namespace {space!r} has the shards {indices}: "
            f"some of 0 to {indices[-1]} are gone, and what they held with them."
        )
    return Topology(base_name, space, len(indices), can_lease)


def connect(base_name: str, index: int, namespace: str) -> Any:
    """Return the handle of a shard.

    Raises
    ------
    ConnectionLostError
        If it is gone.
    """
    import ray

    try:
        return ray.get_actor(f"{base_name}_shard_{index}", namespace=namespace)
    except ValueError:
        raise ConnectionLostError(
            f"shard {index} of queue {base_name!r} is gone from namespace {namespace!r}."
        ) from None


def create(settings: ShardSettings, namespace: str) -> Any:
    """Make a shard, or return the handle of the one that is there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Ray's record of every call, for its dashboard, takes more memory than the queue.
    actor_class = ray.remote(num_cpus=0, max_restarts=-1, enable_task_events=False)(ShardActor)
    placed = {}
    if settings.directory is not None:
        # A restarted shard must find its directory again.
        here = ray.get_runtime_context().get_node_id()
        placed["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    return actor_class.options(
        **placed,
        name=f"{settings.base_name}_shard_{settings.index}",
        namespace=namespace,
        lifetime="detached",
        get_if_exists=True,
    ).remote(settings)


def open_shards(
    wanted: list[ShardSettings],
    num_shards: int | None,
    base_name: str,
    namespace: str | None,
    *,
    may_create: bool,
) -> tuple[Topology, list[Any]]:
    """Connect to a queue, or make it if there is none.

    Raises
    ------
    ConfigurationError
        If it has another number of shards.
    MissingError
        If there is none and none may be made.
    """
    space = _namespace(namespace)
    found = _settled(base_name, space, num_shards)
    if found is None:
        if not may_create or num_shards is None:
            raise MissingError(_nothing_there(base_name, space))
        # The first shard decides between two processes that make the same queue differently.
        first = create(wanted[0], space)
        found = Topology(base_name, space, _settings(first).num_shards, True)
    if num_shards is not None and num_shards != found.num_shards:
        raise ConfigurationError(
            f"queue {base_name!r} in namespace {space!r} has {found.num_shards} shards, but "
            f"{num_shards} were asked for; set the number of shards to {found.num_shards}."
        )
    wanted_directory = wanted[0].directory
    if found.can_lease and wanted_directory is not None:
        actual = _settings(connect(base_name, 0, space)).directory
        if actual != wanted_directory:
            raise ConfigurationError(
                f"queue {base_name!r} is kept in {actual or 'memory alone'}, but "
                f"{wanted_directory} was asked for; leave directory out, or delete the queue first."
            )
    if found.can_lease and may_create and num_shards is not None:
        return found, [create(settings, space) for settings in wanted]
    return found, [connect(base_name, i, space) for i in range(found.num_shards)]


def _settled(base_name: str, namespace: str, num_shards: int | None) -> Topology | None:
    end = time.monotonic() + _SETTLE_SECONDS
    found = discover(base_name, namespace=namespace)
    while (
        found is not None
        and not found.can_lease
        and num_shards is not None
        and found.num_shards < num_shards
        and time.monotonic() < end
    ):
        time.sleep(0.1)
        found = discover(base_name, namespace=namespace)
    return found


def _nothing_there(base_name: str, namespace: str) -> str:
    elsewhere = sorted(set(_named_shards(base_name)) - {namespace})
    hint = (
        f"there is one in namespace {elsewhere[0]!r}: set ray.namespace to it"
        if elsewhere
        else "start what fills it first"
    )
    return f"there is no queue {base_name!r} in namespace {namespace!r}; {hint}."


def _namespace(namespace: str | None) -> str:
    import ray

    return namespace or str(ray.get_runtime_context().namespace)


def _named_shards(base_name: str) -> dict[str, list[int]]:
    """Return the indices of the shards of this name, by namespace."""
    from ray.util import list_named_actors

    pattern = re.compile(re.escape(base_name) + r"_shard_(0|[1-9]\d*)")
    found: dict[str, list[int]] = {}
    for actor in list_named_actors(all_namespaces=True):
        if match := pattern.fullmatch(actor["name"]):
            found.setdefault(actor["namespace"], []).append(int(match[1]))
    return {namespace: sorted(indices) for namespace, indices in found.items()}


def _settings(actor: Any) -> ShardSettings:
    """Ask a shard how its queue was made.

    Raises
    ------
    StorageError
        If the shard could not begin because of its directory.
    ConnectionLostError
        If it ended meanwhile.
    """
    import ray
    from ray.exceptions import RayActorError

    try:
        settings: ShardSettings = ray.get(actor.settings.remote())
    except RayActorError as error:
        # Ray tells why a constructor failed as text, the exception in its last lines.
        if reason := re.search(r"StorageError: (.+)", str(error)):
            raise StorageError(reason[1]) from None
        raise ConnectionLostError(f"a queue ended while it was asked: {error}") from error
    return settings


def store_share() -> int:
    """Return how much of an object store a queue may keep mapped."""
    import ray

    stores = [
        node["Resources"]["object_store_memory"]
        for node in ray.nodes()
        if node["Alive"] and "object_store_memory" in node["Resources"]
    ]
    return int(_SHARE_OF_STORE * min(stores, default=_GIB))
