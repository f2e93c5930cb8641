"""Kill −9, twenty times each: producer, queue actors, workers, file writers, and the command."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cxi_runs import Command, config, kill, ray_processes, rows, until
from q2_items import geometry_file

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(3000)]

SHAPE = (1, 128, 128)
ITEMS, EVENTS, KILLS = 2500, 4, 20

# What was put is noted after the fact: a producer that begins again may put one item twice.
PRODUCE = """
import sys, ray
from pathlib import Path
from q2_items import make
from beamline.streaming.queue import ShardedQueueManager
address, namespace, name, items, events, note = sys.argv[1:]
ray.init(address=address, namespace=namespace, log_to_driver=False)
queue = ShardedQueueManager(name, None, create=False, producer="source")
queue.begin()
made = [make(n, events=int(events), shape=(1, 128, 128), spots=12)[0] for n in range(16)]
note = Path(note)
first = int(note.read_text()) if note.exists() else 0
print("READY", flush=True)
for n in range(first, int(items)):
    item = made[n % 16]
    item.batch_id = f"batch{n:05d}"
    item.metadata["timestamp"] = (1_790_000_000 + n) << 32
    assert queue.put_wait(item, 600)
    part = note.with_suffix(".part")
    part.write_text(str(n + 1))
    part.rename(note)
queue.end()
"""


class Producer:
    """Fills the queue, in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRODUCE, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "READY\n"

    def kill(self) -> bool:
        """End it; return whether it still ran."""
        ran = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        return ran


def test_ten_thousand_events_survive_a_hundred_kills(ray_cluster, namespace, tmp_path):
    from beamline.streaming.queue import ShardedQueueManager

    geometry_file(tmp_path / "d.geom", SHAPE)
    name = "q_hundred"
    ShardedQueueManager(name, 2, 100, directory=tmp_path / "queue", memory_bytes=60_000_000)
    stream = ray_cluster, namespace, name, ITEMS, EVENTS, tmp_path / "produced"
    settings = config(
        tmp_path,
        name,
        output={"buffer_size": 50, "max_file_seconds": 0.5},
        processing={"max_attempts": 10},
    )
    out = tmp_path / "out"
    victims = ["CXIFileWriter", "process_samples", "ShardActor", "command", "producer"] * KILLS
    random.Random(1).shuffle(victims)
    killed = Counter()
    producer = Producer(*stream)
    command = Command(tmp_path, ray_cluster, settings)
    try:
        command.ready()
        for number, victim in enumerate(victims):
            # Spread over the stream: the next one only when more has been written.
            goal = number * ITEMS * EVENTS * 0.9 / len(victims)
            process = command.process
            until(lambda g=goal, p=process: len(rows(out)) >= g or p.poll() is not None, 300)
            if command.process.poll() is not None:
                break
            if victim == "command":
                command.process.kill()
                command.wait()
                command = Command(tmp_path, ray_cluster, settings)
                command.ready()
            elif victim == "producer":
                if not producer.kill():
                    break
                producer = Producer(*stream)
            else:
                found: list[int] = []
                until(lambda v=victim, f=found: f.extend(ray_processes(v)) or f, 120)
                kill(random.choice(found))
            killed[victim] += 1
        assert producer.process.wait(600) == 0
        assert command.wait(600) == 0, command.log.read_text()[-3000:]
    finally:
        command.stop()
        producer.kill()
    print(dict(killed))
    assert killed == Counter(victims)
    found = rows(out)
    expected = {(f"batch{n:05d}", i) for n in range(ITEMS) for i in range(EVENTS)}
    assert expected - set(found) == set()
    assert set(found) - expected == set()
    assert max(found.values()) == 1
