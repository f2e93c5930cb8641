"""A Ray of two CPUs for the tests of a session; import the fixture into a folder's conftest."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

NAMESPACE = "peaknet-pipeline"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Start Ray on this machine alone; give the address for further processes."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # Paths of Ray's sockets have little room.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        yield _started(folder)
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _started(folder: str, attempts: int = 3) -> str:
    """Start Ray; it waits no longer than 30 s for its parts, and a busy machine needs more."""
    import ray

    for attempt in range(1, attempts + 1):
        try:
            context = ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=200_000_000,
                namespace=NAMESPACE,
                log_to_driver=False,
                _temp_dir=folder,
            )
        except Exception:
            ray.shutdown()
            if attempt == attempts:
                raise
        else:
            return str(context.address_info["address"])
    raise AssertionError  # the last attempt has returned or raised


@pytest.fixture
def namespace(ray_cluster, request) -> Iterator[str]:
    """The namespace; named actors that the test leaves in it are ended."""
    import ray
    from ray.util import list_named_actors

    before = set(list_named_actors())
    yield NAMESPACE
    for name in set(list_named_actors()) - before:
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name))
