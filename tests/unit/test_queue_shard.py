"""Shards of a queue without Ray: what goes in comes out once, whatever happens in between."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beamline.core.errors import QueueError, StorageError
from beamline.streaming import segment_log
from beamline.streaming.presence import Process, is_gone, this_process
from beamline.streaming.segment_log import SegmentLog
from beamline.streaming.shard import Shard
from beamline.streaming.shard_state import Content, Part, Party

HERE = this_process()
PRODUCER = Party("producer", "p1", HERE)
CONSUMERS = [Party(name, name, HERE) for name in "ab"]
LEASE = 60.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_shard(log=None, clock=None, **settings):
    limits = {
        "maxsize": 100, "max_bytes": 1 << 20, "memory_bytes": 1 << 20, "lease_seconds": LEASE
    }  # fmt: skip
    return Shard(**{**limits, **settings}, log=log, clock=clock or Clock())


def content(number: int, size: int = 0) -> Content:
    parts = [Part(f"ref {number}", np.full(size, number, np.float32))] if size else []
    return Content(f"item {number}".encode(), parts)


def add(shard, number, size=0):
    item = content(number, size)
    return shard.add(PRODUCER, number, 1000 + number, item, len(item.skeleton) + 4 * size)


def skeletons(deliveries):
    return [d.content.skeleton.decode() for d in deliveries]


def open_log(directory, **settings):
    return SegmentLog(directory, **{"segment_bytes": 2000, **settings})


# --- single properties


def test_bytes_are_bounded_and_too_large_is_an_error():
    shard = make_shard(max_bytes=1000)
    assert add(shard, 0, 200)
    assert not add(shard, 1, 200)
    assert shard.counts.refused == 1
    with pytest.raises(QueueError, match="raise spill_bytes"):
        add(shard, 2, 300)


def test_a_live_process_is_not_gone_and_a_dead_one_is():
    child = os.fork()
    if child == 0:
        os._exit(0)
    dead = Process(HERE.machine, child, HERE.started)
    os.waitpid(child, 0)
    assert is_gone(dead)
    assert not is_gone(HERE)
    assert not is_gone(Process("another machine", child, 0))
    # The number of the process came again, with another start.
    assert is_gone(HERE._replace(started=HERE.started - 1))


def test_items_of_dead_consumers_come_back_at_once():
    shard = make_shard()
    for i in range(4):
        add(shard, i)
    dead = Party("dead", "dead", Process("elsewhere", 1, 1))
    shard.lease(dead, 0, 2)
    shard.lease(CONSUMERS[0], 0, 1)
    assert shard.take_from_dead(lambda process: process == dead.process) == 2
    assert skeletons(shard.lease(CONSUMERS[1], 0, 9)) == ["item 0", "item 1", "item 3"]


def test_content_beyond_memory_comes_from_the_log(tmp_path):
    shard = make_shard(open_log(tmp_path), memory_bytes=500)
    for i in range(4):
        assert add(shard, i, 100)
    assert shard.memory <= 500
    parts = [d.content.parts[0] for d in shard.lease(CONSUMERS[0], 0, 9)]
    assert [part.reference for part in parts] == ["ref 0", None, None, None]
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part.value, np.full(100, i, np.float32))


def test_values_that_are_no_plain_arrays_survive(tmp_path):
    values = [
        {"any": ["thing"]},
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.zeros((0, 3), np.uint16),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.array(1.5),
    ]
    shard = make_shard(open_log(tmp_path))
    shard.add(PRODUCER, 0, 0, Content(b"x", [Part(None, v) for v in values]), 10)
    shard._log.close()
    back = make_shard(open_log(tmp_path)).lease(CONSUMERS[0], 0, 1)[0].content.parts
    assert back[0].value == values[0]
    for part, value in zip(back[1:], values[1:], strict=True):
        np.testing.assert_array_equal(part.value, value)
        assert part.value.dtype == value.dtype


def test_segments_go_when_all_is_acknowledged(tmp_path):
    shard = make_shard(open_log(tmp_path))
    for i in range(50):
        add(shard, i, 100)
    assert len(list(tmp_path.glob("*.items"))) > 5
    leases = shard.lease(CONSUMERS[0], 0, 50)
    shard.acknowledge([d.number for d in leases[:-1]])
    assert len(list(tmp_path.glob("*.items"))) <= 2
    shard.acknowledge([leases[-1].number])
    assert shard._log.nbytes < 2000
    assert sum(path.stat().st_size for path in tmp_path.glob("*.items")) == shard._log.nbytes


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path, monkeypatch):
    clock = Clock()
    shard = make_shard(open_log(tmp_path), clock)
    add(shard, 0, 10)
    real = os.pwritev
    written = []

    def full(descriptor, views, offset):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real(descriptor, [views[0][:5]], offset))
        return 5

    monkeypatch.setattr(segment_log.os, "pwritev", full)
    assert not add(shard, 1, 10)
    assert "No space left on device" in shard.last_error
    assert shard.room == 0
    monkeypatch.undo()
    assert not add(shard, 1, 10), "not every producer's every try is one of the disk"
    clock.now += 2
    assert add(shard, 1, 10)
    shard._log.close()
    again = make_shard(open_log(tmp_path))
    assert skeletons(again.lease(CONSUMERS[0], 0, 9)) == ["item 0", "item 1"]


def test_one_directory_belongs_to_one_shard(tmp_path, monkeypatch):
    first = open_log(tmp_path)
    monkeypatch.setattr(segment_log, "_LOCK_SECONDS", 0.1)
    with pytest.raises(StorageError, match="in use by another queue"):
        open_log(tmp_path)
    first.close()
    open_log(tmp_path)


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another directory"):
        open_log(tmp_path / "file" / "log")


@pytest.mark.parametrize("fsync", [False, True])
def test_the_end_is_known_after_a_restart(tmp_path, fsync):
    shard = make_shard(open_log(tmp_path, fsync=fsync))
    other = Party("other", "o1", HERE)
    shard.begin(PRODUCER)
    shard.begin(other)
    add(shard, 0)
    shard.sync()
    shard.end(PRODUCER)
    shard._log.close()
    shard = make_shard(open_log(tmp_path))
    assert [p.name for p in shard.open_producers] == ["other"]
    # A producer that was restarted under its name ends what it began before.
    shard.begin(Party("other", "o2", HERE))
    shard.end(Party("other", "o2", HERE))
    assert not shard.ended
    shard.acknowledge([0])
    assert shard.ended
    shard._log.close()
    shard = make_shard(open_log(tmp_path))
    assert shard.ended
    shard.acknowledge_end()
    assert (shard.ended, shard.generation) == (False, 1)


def test_numbers_of_producers_outlive_their_segments(tmp_path):
    shard = make_shard(open_log(tmp_path))
    for i in range(40):
        add(shard, i, 100)
    shard.acknowledge(range(40))
    shard._log.close()
    shard = make_shard(open_log(tmp_path))
    assert add(shard, 39, 100)
    assert shard.size == 0
    assert add(shard, 40, 100)
    assert [d.number for d in shard.lease(CONSUMERS[0], 0, 9)] == [40]


# --- everything in any order


class Queue(RuleBasedStateMachine):
    """Against a model: a set of items put, a set acknowledged, and who has what."""

    on_disk = True

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="shard"))
        self.clock = Clock()
        self.put: dict[int, bytes] = {}
        self.acknowledged: set[int] = set()
        self.held: dict[str, dict[int, float]] = {c.name: {} for c in CONSUMERS}
        self.request = 0
        self.sequence = 0
        self.last_put: int | None = None
        self.last_answer: tuple | None = None

    @initialize(memory=st.sampled_from([0, 1000, 1 << 20]))
    def start(self, memory):
        self.memory = memory
        self.shard = self.opened()

    def opened(self):
        log = open_log(self.directory) if self.on_disk else None
        return make_shard(log, self.clock, maxsize=12, memory_bytes=self.memory)

    def teardown(self):
        shutil.rmtree(self.directory)

    @rule(size=st.integers(0, 300), repeat=st.booleans())
    def add(self, size, repeat):
        item = content(self.sequence, size)
        nbytes = len(item.skeleton) + 4 * size
        came = self.shard.add(PRODUCER, self.sequence, self.sequence, item, nbytes)
        assert came == (len(self.put) - len(self.acknowledged) < 12)
        if came:
            if repeat:
                assert self.shard.add(PRODUCER, self.sequence, self.sequence, item, nbytes)
            self.put[len(self.put)] = item.skeleton
            self.last_put = self.sequence
        self.sequence += 1

    @rule(consumer=st.sampled_from(CONSUMERS), number=st.integers(1, 5), repeat=st.booleans())
    def lease(self, consumer, number, repeat):
        self.request += 1
        given = self.shard.lease(consumer, self.request, number)
        if repeat:
            again = self.shard.lease(consumer, self.request, number)
            assert [(d.number, d.attempt) for d in again] == [(d.number, d.attempt) for d in given]
        self.last_answer = (consumer, self.request, number, [d.number for d in given])
        self.forget_late()
        numbers = [d.number for d in given]
        assert numbers == sorted(numbers)
        free = self.free()
        assert numbers == free[:number]
        for delivery in given:
            assert delivery.content.skeleton == self.put[delivery.number]
            for part in delivery.content.parts:
                assert part.value.dtype == np.float32
                assert set(part.value) <= {int(delivery.content.skeleton.split()[1])}
            self.held[consumer.name][delivery.number] = self.clock.now + LEASE

    @rule(data=st.data(), consumer=st.sampled_from(CONSUMERS))
    def acknowledge(self, data, consumer):
        numbers = (
            data.draw(st.sets(st.sampled_from(sorted(self.put)), max_size=4)) if self.put else []
        )
        new = set(numbers) - self.acknowledged
        assert self.shard.acknowledge(sorted(numbers)) == len(new)
        self.acknowledged |= new
        for held in self.held.values():
            for number in numbers:
                held.pop(number, None)

    @rule(data=st.data(), consumer=st.sampled_from(CONSUMERS))
    def give_back(self, data, consumer):
        numbers = (
            data.draw(st.sets(st.sampled_from(sorted(self.put)), max_size=4)) if self.put else []
        )
        held = self.held[consumer.name]
        mine = [n for n in sorted(numbers) if n in held]
        assert self.shard.give_back(consumer, sorted(numbers)) == len(mine)
        for number in mine:
            del held[number]

    @rule(consumer=st.sampled_from(CONSUMERS))
    def renew(self, consumer):
        held = self.held[consumer.name]
        assert self.shard.renew(consumer, list(held)) == []
        for number in held:
            held[number] = self.clock.now + LEASE

    @rule(seconds=st.sampled_from([10.0, LEASE]))
    def wait(self, seconds):
        self.clock.now += seconds
        self.shard.expire()
        self.forget_late()

    @rule(consumer=st.sampled_from(CONSUMERS))
    def die(self, consumer):
        dead = Process("dead", 0, 0)
        held = self.held[consumer.name]
        gone = Party(consumer.name, consumer.incarnation, dead)
        for number in held:
            self.shard._entries[number].consumer = gone
        assert self.shard.take_from_dead(lambda process: process == dead) == len(held)
        held.clear()

    @precondition(lambda self: self.on_disk)
    @rule(torn=st.binary(max_size=40))
    def kill_and_restart(self, torn):
        self.shard._log.close()
        newest = max(self.directory.glob("*.items"))
        with newest.open("ab") as stream:
            stream.write(torn)
        with newest.with_suffix(".marks").open("ab") as stream:
            stream.write(torn[:1] and b"\x93\x91")
        self.shard = self.opened()
        if self.last_put is not None:
            assert self.shard.add(PRODUCER, self.last_put, 0, content(0), 6)
        for held in self.held.values():
            for number in held:
                held[number] = self.clock.now + LEASE
        if self.last_answer is not None:
            consumer, request, number, given = self.last_answer
            still = [n for n in given if n in self.held[consumer.name]]
            if still:
                again = self.shard.lease(consumer, request, number)
                assert [d.number for d in again] == still

    def free(self):
        held = {n for numbers in self.held.values() for n in numbers}
        return [n for n in sorted(self.put) if n not in self.acknowledged and n not in held]

    def forget_late(self):
        for held in self.held.values():
            for number in [n for n, deadline in held.items() if deadline <= self.clock.now]:
                del held[number]

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "shard"):
            shard = self.shard
            assert shard.size + shard.leased == len(self.put) - len(self.acknowledged)
            assert shard.leased == sum(map(len, self.held.values()))
            assert set(shard._entries) == set(self.put) - self.acknowledged
            assert shard.nbytes == sum(entry.nbytes for entry in shard._entries.values())
            assert shard.memory == sum(entry.memory for entry in shard._entries.values())
            if self.on_disk:
                files = sum(path.stat().st_size for path in self.directory.glob("*.items"))
                assert shard._log.nbytes == files


class QueueInMemory(Queue):
    on_disk = False


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=30, stateful_step_count=40)
TestQueueInMemory = QueueInMemory.TestCase
TestQueueInMemory.settings = settings(max_examples=15, stateful_step_count=40)
