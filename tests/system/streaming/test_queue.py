"""Queues on a real Ray."""

import pytest

pytestmark = pytest.mark.system


@pytest.fixture
def queue(namespace):
    from beamline.streaming.queue import ShardedQueueManager

    def make(name, *args, **kwargs):
        return ShardedQueueManager(name, *args, **kwargs)

    return make


def test_items_come_back_until_they_are_acknowledged(queue):
    q = queue("q1", 3, 100)
    for i in range(10):
        assert q.put({"i": i})
    assert q.size() == 10
    leases = q.lease(4)
    assert [lease.item["i"] for lease in leases] == [0, 1, 2, 3]
    assert q.ack(leases[1:]) == 3
    assert q.give_back(leases[:1]) == 1
    again = q.lease(100, timeout=10)
    assert sorted(lease.item["i"] for lease in again) == [0, 4, 5, 6, 7, 8, 9]
    assert max(lease.attempt for lease in again) == 2
    q.end()
    assert not q.ended
    q.ack(again)
    assert q.ended
