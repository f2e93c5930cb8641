"""One stream through a queue on disk while producer, consumer and queue actors are killed."""

import itertools
import json
import os
import random
import signal
import time
from collections import Counter

import numpy as np
import pytest

from beamline.streaming.queue import ShardedQueueManager

pytestmark = [
    pytest.mark.system,
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

EVENTS = 10_000
KILLS = 20
NAME = "killed"


def make_producer(folder, namespace):
    import ray

    # A second thread answers `pid` while `run` runs.
    class Running:
        """Puts events of 64 kB; notes how far it came, after the fact."""

        def pid(self):
            return os.getpid()

        def run(self):
            queue = ShardedQueueManager(NAME, None, namespace=namespace, producer="source")
            note = folder / "produced"
            first = int(note.read_text()) if note.exists() else 0
            for number in range(first, EVENTS):
                data = np.full(8192, number, np.float64)
                assert queue.put_wait({"event": number, "data": data})
                part = folder / "produced.part"
                part.write_text(str(number + 1))
                part.rename(note)
            queue.end()
            return "done"

    return ray.remote(num_cpus=0, max_concurrency=2)(Running).remote()


def make_consumer(folder, namespace):
    import ray

    class Running:
        def pid(self):
            return os.getpid()

        def run(self):
            queue = ShardedQueueManager(NAME, None, namespace=namespace)
            # What was acknowledged never comes again; what was written before may.
            seen = {n for path in folder.glob("*.json") for n in json.loads(path.read_text())}
            while not queue.ended:
                leases = queue.lease(40, timeout=2)
                if leases:
                    self.write(leases, seen)
                    queue.ack(leases)
            return "done"

        def write(self, leases, seen):
            new = set()
            for lease in leases:
                number = lease.item["event"]
                assert (lease.item["data"] == number).all()
                new.add(number)
            new -= seen
            if new:
                part = folder / "events.part"
                part.write_text(json.dumps(sorted(new)))
                part.rename(folder / f"{time.time_ns()}.json")
                seen |= new

    return ray.remote(num_cpus=0, max_concurrency=2)(Running).remote()


def written(folder):
    return Counter(itertools.chain.from_iterable(
        json.loads(path.read_text()) for path in folder.glob("*.json")
    ))  # fmt: skip


class Kept:
    """A process that is started again whenever it was killed."""

    def __init__(self, make, folder, namespace):
        self.start = lambda: make(folder, namespace)
        self.starts = 0
        self.begin()

    def begin(self):
        self.starts += 1
        assert self.starts <= 3 * KILLS, "it dies without being killed"
        self.actor = self.start()
        self.result = self.actor.run.remote()

    def done(self):
        import ray

        if not ray.wait([self.result], timeout=0)[0]:
            return False
        try:
            return ray.get(self.result) == "done"
        except ray.exceptions.RayActorError:
            self.begin()
            return False

    def kill(self):
        import ray

        os.kill(ray.get(self.actor.pid.remote()), signal.SIGKILL)


def test_nothing_is_lost_and_nothing_twice_whoever_is_killed(namespace, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    queue = ShardedQueueManager(NAME, 2, 100, directory=tmp_path / "queue", spill_bytes=20_000_000)
    parties = {
        "producer": Kept(make_producer, folder, namespace),
        "consumer": Kept(make_consumer, folder, namespace),
    }
    chance = random.Random(1)
    plan = ["producer", "consumer", "queue"] * KILLS
    chance.shuffle(plan)
    killed = Counter()
    for number, kind in enumerate(plan):
        # The stream goes on between any two kills.
        while len(list(folder.glob("*.json"))) <= number or not produced_between(folder, number):
            for party in parties.values():
                party.done()
            time.sleep(0.02)
        if kind == "queue":
            shard = chance.choice(queue.get_shard_info())
            os.kill(shard["pid"], signal.SIGKILL)
        elif parties[kind].done():
            continue
        else:
            parties[kind].kill()
        killed[kind] += 1
    while not all(list(map(Kept.done, parties.values()))):
        time.sleep(0.1)
    seen = written(folder)
    assert set(seen) == set(range(EVENTS)), "events are lost"
    assert max(seen.values()) == 1, "events were written twice"
    assert queue.ended
    assert min(killed.values()) >= KILLS - 1, killed
    print(dict(killed), queue.get_shard_info())


def produced_between(folder, number):
    """Whether enough was produced for the next kill; kills are spread over the whole stream."""
    note = folder / "produced"
    produced = int(note.read_text()) if note.exists() else 0
    return produced >= min(number * EVENTS // (3 * KILLS), EVENTS - 1)
