"""Queues on Ray: small items, and batches of 26 MB by reference, against Ray's own queue.

One process puts and takes. The batch is 16 panels of 352 x 384 with their logits. "Copy" is what
bounds the large ones: `ray.put` of the same arrays, without any queue. Run with
``python benchmarks/ray_queue.py``.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.util.queue import Queue

from beamline.streaming.items import PipelineOutput
from beamline.streaming.queue import ShardedQueueManager

SHARDS = 2
REPEATS = 3


def rate(run: Callable[[], int]) -> float:
    """Return the median of units per second."""
    rates = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        number = run()
        rates.append(number / (time.perf_counter() - begin))
    return statistics.median(rates)


def ours_small(queue: ShardedQueueManager, number: int, batch: int) -> int:
    for first in range(0, number, batch):
        items = [{"event": first + i, "data": bytes(100)} for i in range(batch)]
        assert queue.put_many(items) if batch > 1 else queue.put(items[0])
    left = number
    while left:
        leases = queue.lease(batch)
        assert queue.ack(leases) == len(leases)
        left -= len(leases)
    return number


def rays_small(queue: Queue, number: int, batch: int) -> int:
    for first in range(0, number, batch):
        items = [{"event": first + i, "data": bytes(100)} for i in range(batch)]
        queue.put_nowait_batch(items) if batch > 1 else queue.put(items[0])
    for _ in range(number // batch):
        queue.get_nowait_batch(batch) if batch > 1 else queue.get()
    return number


def touched(item: PipelineOutput) -> int:
    """Read one number of each array, so that it is mapped; return all bytes."""
    arrays = (item.get_numpy_array(), item.get_images())
    assert sum(float(array[0, 0, 0, 0]) for array in arrays) >= 0
    return sum(array.nbytes for array in arrays)


def ours_large(queue: ShardedQueueManager, logits, images, number: int) -> int:
    for i in range(number):
        output = PipelineOutput(predictions=logits, original_image_ref=images, batch_id=str(i))
        assert queue.put_wait(output)
    taken = moved = 0
    while taken < number:
        leases = queue.lease(2, timeout=10)
        moved += sum(touched(lease.item) for lease in leases)
        queue.ack(leases)
        taken += len(leases)
    return moved


def rays_large(queue: Queue, logits, images, number: int) -> int:
    for i in range(number):
        queue.put(
            PipelineOutput(
                predictions_ref=ray.put(logits),
                original_image_ref=ray.put(images),
                batch_id=str(i),
            )
        )
    return sum(touched(queue.get()) for _ in range(number))


def copied(logits, images, number: int) -> int:
    for _ in range(number):
        references = ray.put(logits), ray.put(images)
        del references
    return number * (logits.nbytes + images.nbytes)


def main() -> None:
    folder = tempfile.mkdtemp(prefix="rayq", dir="/tmp")
    logs = Path(tempfile.mkdtemp(prefix="queue", dir=sys.argv[1] if len(sys.argv) > 1 else None))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=1_500_000_000,
        namespace="benchmark",
        log_to_driver=False,
        # Ray is nice to other processes of the machine (15); a busy one would measure that.
        _system_config={"worker_niceness": 0},
        _temp_dir=folder,
    )
    try:
        memory = ShardedQueueManager("memory", SHARDS, 100_000)
        disk = ShardedQueueManager("disk", SHARDS, 100_000, directory=logs)
        rays = Queue(actor_options={"num_cpus": 0})
        ours_small(memory, 10, 1), ours_small(disk, 10, 1), rays_small(rays, 10, 1)
        print("| items/s in and out | ours | ours, on disk | ray.util.queue |")
        print("|---|---|---|---|")
        for batch, number in ((1, 200), (100, 5000)):
            columns = [
                rate(lambda q=q, n=number, b=batch: ours_small(q, n, b)) for q in (memory, disk)
            ]
            columns.append(rate(lambda n=number, b=batch: rays_small(rays, n, b)))
            print(f"| {batch} at a time |", " | ".join(f"{c:,.0f}" for c in columns), "|")
        rng = np.random.default_rng(1)
        images = rng.poisson(3, (16, 1, 352, 384)).astype(np.float32)
        logits = rng.random((16, 2, 352, 384), np.float32)
        number = 12
        # Memory that was never touched is slower, whoever comes first.
        warm = [ray.put(logits) for _ in range(60)]
        del warm
        columns = [
            rate(lambda q=q: ours_large(q, logits, images, number)) / 1e6 for q in (memory, disk)
        ]
        columns.append(rate(lambda: rays_large(rays, logits, images, number)) / 1e6)
        bound = rate(lambda: copied(logits, images, number)) / 1e6
        print("| batches of 26 MB, MB/s |", " | ".join(f"{c:,.0f}" for c in columns), "|")
        print("| of the copy alone |", " | ".join(f"{c / bound:.2f}" for c in columns), "|")
        print(f"\nThe copy alone: {bound:,.0f} MB/s. Load: {os.getloadavg()[0]:.1f}.")
        memory.delete()
        disk.delete()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(logs, ignore_errors=True)


if __name__ == "__main__":
    main()
