"""What has become of events of Q2: on disk, in the ledger, in documents, in that order."""

import gc
import weakref
from types import SimpleNamespace

import pytest
from q2_items import geometry_file, make

from beamline.crystallography.geometry import read_geometry
from beamline.streaming.batches import ProcessedBatch, ProcessedEvent
from beamline.streaming.config import WriterConfig
from beamline.streaming.finishing import Finisher
from beamline.streaming.health import WriterCounts
from beamline.streaming.in_flight import Block, Item, tokens
from beamline.streaming.receipts import CompletedFile

STAMP = 1_790_000_001_000_000_000


@pytest.fixture
def finisher(tmp_path):
    geometry = geometry_file(tmp_path / "detector.geom")
    settings = WriterConfig.model_validate({"geometry": {"geom_file": str(geometry)}})
    made = Finisher(settings, tmp_path / "out", read_geometry(geometry), WriterCounts(), [])
    yield made
    made.close()


numbers = tokens()


def searched(verdict="hit") -> Block:
    """The first item, as it comes from the search: two events."""
    item = Item.from_lease(SimpleNamespace(item=make(1, events=2)[0]), 8, numbers)
    (block,) = item.blocks
    events = [ProcessedEvent(i, verdict, n_peaks=15, time_ns=STAMP + i) for i in range(2)]
    block.batch = ProcessedBatch(item.header, events)
    return block


def verdicts(block: Block) -> list[str]:
    assert block.batch is not None
    return [event.verdict for event in block.batch.events]


def test_an_item_that_comes_again_waits_until_the_ledger_knows_it(finisher, tmp_path):
    first, again = searched(), searched()
    assert finisher.judge(first)
    assert verdicts(first) == ["hit", "hit"]
    assert not finisher.judge(again)
    path = tmp_path / "out" / "a.cxi"
    path.touch()
    made = CompletedFile(path, "", (2, 96, 80), "<f4", [(first.token, [0, 1])])
    finisher.completed(made, {first.token: first})
    # Its file is complete and not noted yet.
    assert not finisher.judge(again)
    assert finisher.flush() == [first.item.lease]
    assert finisher.judge(again)
    assert verdicts(again) == ["duplicate", "duplicate"]
    assert again.unwritten == {}
    assert finisher.flush() == [again.item.lease]


def test_the_arrays_of_an_item_go_with_its_last_block(finisher):
    block = searched("not_hit")
    array = weakref.ref(block.item.images)
    assert finisher.judge(block)
    assert finisher.flush() == [block.item.lease]
    gc.disable()
    try:
        block.item.let_go()
        del block
        assert array() is None
    finally:
        gc.enable()


def test_an_event_that_was_refused_is_known_when_it_comes_again(finisher):
    first, again = searched(), searched()
    assert finisher.judge(first)
    finisher.refuse_hit(first, 0, "it does not fit")
    finisher.refuse_hit(first, 1, "it does not fit")
    assert verdicts(first) == ["refused", "refused"]
    assert not finisher.judge(again)
    assert finisher.flush() == [first.item.lease]
    assert finisher.judge(again)
    assert verdicts(again) == ["duplicate", "duplicate"]


def test_a_miss_that_comes_again_is_told_once(finisher):
    first, again = searched("not_hit"), searched("not_hit")
    assert finisher.judge(first)
    assert not finisher.judge(again)
    assert finisher.flush() == [first.item.lease]
    assert finisher.judge(again)
    assert verdicts(again) == ["duplicate", "duplicate"]


def test_what_was_given_up_is_judged_anew_when_it_comes_again(finisher):
    first, again = searched(), searched()
    assert finisher.judge(first)
    finisher.forget([first])
    assert finisher.judge(again)
    assert verdicts(again) == ["hit", "hit"]
