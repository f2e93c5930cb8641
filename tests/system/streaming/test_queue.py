"""Queues on a real Ray: producers, consumers and queue actors that die."""

import os
import signal
import time

import numpy as np
import pytest
from cxi_runs import reference_shard, until

from beamline.core.errors import ConfigurationError, MissingError, QueueError, StorageError
from beamline.streaming.items import PipelineOutput, PreprocessingMetadata
from beamline.streaming.queue import ShardedQueueManager, discover

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def party(namespace):
    """Make a process with a queue manager of its own; call methods of the manager there."""
    import ray

    def make(base_name, **settings):
        # A local class goes to the workers by value: they can't import this module.
        @ray.remote(num_cpus=0)
        class Process:
            def __init__(self, **settings):
                self.queue = ShardedQueueManager(base_name, None, namespace=namespace, **settings)
                self.leases = []

            def pid(self):
                return os.getpid()

            def put(self, items):
                return [self.queue.put(item) for item in items]

            def put_images(self, numbers, nested):
                for number in numbers:
                    logits, image = batch(number)
                    assert self.queue.put(
                        PipelineOutput(
                            predictions=logits,
                            original_image_ref=ray.put(image) if nested else image,
                            metadata={"number": number},
                            batch_id=str(number),
                        )
                    )

            def lease(self, number):
                self.leases += self.queue.lease(number, timeout=60)
                return [lease.item["i"] for lease in self.leases]

            def end(self):
                self.queue.end()

        def batch(number):
            logits = np.full((4, 2, 100, 100), number, np.float32)
            return logits, np.full((4, 1, 100, 100), -number, np.float32)

        return Process.remote(**settings)

    return make


def kill(actor):
    import ray

    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)


def kill_shards(queue):
    for info in queue.get_shard_info():
        os.kill(info["pid"], signal.SIGKILL)


def numbers(leases):
    return [lease.item["i"] for lease in leases]


def test_items_come_in_order_and_back_until_they_are_acknowledged(namespace):
    queue = ShardedQueueManager("fair", 3, 100)
    assert queue.put_many([{"i": i} for i in range(3)]) == 3
    assert all(queue.put({"i": i}) for i in range(3, 20))
    assert queue.size() == 20
    first = queue.lease(4)
    second = queue.lease(4)
    # Nothing overtakes by more than what one call takes.
    assert max(np.abs(np.array(numbers(first + second)) - np.arange(8))) <= 4
    assert queue.ack(first) == 4
    assert queue.give_back(second) == 4
    again = queue.lease(100)
    assert sorted(numbers(again) + numbers(first)) == list(range(20))
    assert numbers(again) == sorted(numbers(again))
    assert {lease.item["i"] for lease in again if lease.attempt == 2} == set(numbers(second))
    queue.end()
    assert not queue.ended
    late = ShardedQueueManager("fair", None)
    assert queue.ack(again) == 16
    assert queue.ended
    assert queue.ack(again) == 0
    begin = time.monotonic()
    assert queue.lease(1, timeout=60) == []
    assert time.monotonic() - begin < 30, "a stream that ended is not waited for"
    queue.acknowledge_end()
    assert late.ended
    assert not ShardedQueueManager("fair", None).ended


def test_topology_is_found_and_not_believed(namespace, tmp_path):
    import ray

    with pytest.raises(MissingError, match="there is no queue 'nothing'"):
        ShardedQueueManager("nothing", 2, create=False)
    assert discover("nothing") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"^a queue can't be kept in .* choose another directory"
    ):
        ShardedQueueManager("nothing", 2, directory=tmp_path / "file")
    made = ShardedQueueManager("topology", 2)
    assert made.put("x")
    with pytest.raises(ConfigurationError, match="has 2 shards, but 4 were asked for"):
        ShardedQueueManager("topology", 4)
    with pytest.raises(ConfigurationError, match="has 2 shards, but 1 were asked for"):
        ShardedQueueManager("topology")
    with pytest.raises(ValueError, match="topology_shard_2"):
        ray.get_actor("topology_shard_2")
    with pytest.raises(MissingError, match=f"namespace '{namespace}': set ray.namespace"):
        ShardedQueueManager("topology", 2, namespace="elsewhere", create=False)
    found = discover("topology")
    assert (found.num_shards, found.can_lease, found.namespace) == (2, True, namespace)
    assert ShardedQueueManager("topology", None).get() == "x"
    assert made.put("y")

    @ray.remote(num_cpus=0)
    def elsewhere(queues):
        # A copy that went on with the numbers of the first would be taken for a repetition.
        return queues[0].put("z")

    assert ray.get(elsewhere.remote([made]))
    assert made.put("again")
    assert {made.get() for _ in range(3)} == {"y", "z", "again"}


def test_a_full_queue_says_so_and_waits_for_room(namespace, party):
    import ray

    queue = ShardedQueueManager("full", 2, 2)
    assert [queue.put({"i": i}) for i in range(6)] == [True] * 4 + [False] * 2
    assert not queue.put_wait({"i": 4}, timeout=0.2)
    assert [info["size"] for info in queue.get_shard_info()] == [2, 2]
    consumer = party("full")
    waiting = consumer.lease.remote(4)
    assert sorted(ray.get(waiting)) == [0, 1, 2, 3]
    assert not queue.put({"i": 4}), "leased items are still the queue's"
    kill(consumer)
    # They come back because the consumer died, not because of the time.
    mine = queue.lease(4, timeout=60)
    assert queue.ack(mine[:1]) == 1
    assert queue.put_wait({"i": 4}, timeout=60)


def test_references_stay_references_and_bad_items_harm_nobody(namespace):
    import ray

    queue = ShardedQueueManager("references", 1)
    reference = ray.put(np.arange(5))

    class Unreadable:
        def __reduce__(self):
            return os.strerror, ("no number",)

    small = np.arange(3)
    large = np.arange(100_000)
    for item in ([reference], Unreadable(), (small, large)):
        assert queue.put(item)
    first, bad, last = queue.lease(3)
    assert isinstance(first.item[0], ray.ObjectRef)
    np.testing.assert_array_equal(ray.get(first.item[0]), np.arange(5))
    assert bad.item is None
    assert isinstance(bad.error, TypeError)
    np.testing.assert_array_equal(last.item[0], small)
    np.testing.assert_array_equal(last.item[1], large)
    with pytest.raises(QueueError, match="spill_bytes"):
        ShardedQueueManager("tiny", 1, spill_bytes=1000).put(large)


def test_images_outlive_their_producer(namespace, party):
    import ray

    # Two items are kept mapped; of the others the queue makes copies of its own.
    queue = ShardedQueueManager("orphans", 1, memory_bytes=1_000_000)
    producer = party("orphans")
    ray.get([producer.put_images.remote([1, 2], False), producer.put_images.remote([3, 4], True)])
    kill(producer)
    # Ray frees what the dead process owned; what frees it is asynchronous.
    time.sleep(2)
    leases = queue.lease(10, timeout=60)
    again = leases[3:]
    queue.give_back(again)
    leases[3:] = queue.lease(1, timeout=60)
    for number, lease in enumerate(leases, 1):
        item = lease.item
        np.testing.assert_array_equal(item.get_numpy_array(), np.float32(number))
        np.testing.assert_array_equal(item.get_images(), np.float32(-number))
        assert item.metadata["number"] == number
    assert leases[3].attempt == 2
    assert not queue.ended
    until(lambda: [p["died"] for p in queue.get_shard_info()[0]["producers"]] == [True])


@pytest.mark.slow
def test_a_killed_queue_comes_back_from_its_log(namespace, party, tmp_path):
    import ray

    queue = ShardedQueueManager("durable", 2, directory=tmp_path, memory_bytes=500_000)
    assert queue.put_many([{"i": i} for i in range(10)]) == 10
    mine = queue.lease(4)
    assert queue.ack(mine[:2]) == 2
    kill_shards(queue)
    assert queue.put({"i": 10})
    assert queue.ack(mine[2:3]) == 1, "a lease holds over the restart"
    rest = queue.lease(100, timeout=60)
    assert sorted(numbers(rest) + numbers(mine)) == list(range(11))
    assert queue.give_back(mine[3:]) == 1
    assert queue.ack(rest) == 7
    assert [mine[3].item] == [lease.item for lease in queue.lease(9, timeout=60)]
    assert queue.ack(mine[3:]) == 1
    producer = party("durable")
    ray.get(producer.put_images.remote(range(1, 6), True))
    ray.get(producer.end.remote())
    kill(producer)
    queue.delete()
    # As a new cluster would find it.
    while discover("durable") is not None:
        time.sleep(0.05)
    queue = ShardedQueueManager("durable", 2, directory=tmp_path)
    leases = queue.lease(100, timeout=60)
    assert [lease.item.metadata["number"] for lease in leases] == [1, 2, 3, 4, 5]
    for lease in leases:
        number = lease.item.metadata["number"]
        np.testing.assert_array_equal(lease.item.get_numpy_array(), np.float32(number))
        np.testing.assert_array_equal(lease.item.get_images(), np.float32(-number))
    assert queue.size() == 0
    with pytest.raises(ConfigurationError, match="is kept in"):
        ShardedQueueManager("durable", 2, directory=tmp_path / "another")


def test_the_references_own_actors_are_consumed_as_they_are(namespace):
    import ray

    shard = ray.remote(num_cpus=0)(reference_shard())
    actors = [
        shard.options(name=f"theirs_shard_{i}", lifetime="detached").remote(8) for i in range(3)
    ]
    for i in range(12):
        ray.get(actors[i % 3].put.remote({"i": i}))
    queue = ShardedQueueManager("theirs", 3, 8)
    assert not queue.can_lease
    assert [queue.get()["i"] for _ in range(4)] == [0, 1, 2, 3]
    leases = queue.lease(5)
    assert len(leases) == 5
    # What this process gives back comes again, here.
    assert queue.give_back(leases[2:]) == 3
    assert queue.ack(leases[:2]) == 2
    again = queue.lease(100)
    assert sorted(numbers(leases[:2] + again)) == list(range(4, 12))
    assert sorted(lease.attempt for lease in again) == [1] * 3 + [2] * 3
    assert queue.get(timeout=0.05) is None
    assert sum(queue.put({"i": i}) for i in range(30)) == 24
    assert queue.size() == 24
    assert not queue.ended
    with pytest.raises(ConfigurationError, match="has 3 shards, but 2 were asked for"):
        ShardedQueueManager("theirs", 2)


def test_the_references_manager_calls_work_on_ours(namespace):
    import ray

    ShardedQueueManager("ours", 1, 3)
    actor = ray.get_actor("ours_shard_0")
    output = PipelineOutput(
        predictions_ref=ray.put(np.ones((1, 2, 300, 300), np.float32)),
        batch_id="b",
        preprocessing_metadata=PreprocessingMetadata((1, 1, 300, 300), (1, 1, 300, 300)),
    )
    # Calls that run at the same time may pass each other.
    assert sorted(ray.get([actor.put.remote(output) for _ in range(4)])) == [False] + [True] * 3
    assert ray.get([actor.size.remote(), actor.is_full.remote()]) == [3, True]
    item = ray.get(actor.get.remote())
    assert item.get_numpy_array().shape == (1, 2, 300, 300)
    rest = ray.get([actor.get.remote() for _ in range(3)])
    assert [item is None for item in rest].count(True) == 1
    assert ray.get(actor.is_empty.remote())
