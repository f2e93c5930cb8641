"""Rows of the events of a stream, against a plain list of them."""

from __future__ import annotations

import random

from beamline.nexus.row_ranges import RowRanges
from beamline.nexus.tree import FrameRange


def test_rows_that_follow_each_other_are_one_range():
    rows = RowRanges()
    for first in range(0, 1000, 5):
        rows.add(FrameRange("a.h5", "/data", first, first + 5), first)
    rows.add(FrameRange("b.h5", "/data", 0, 5))
    assert rows.ranges() == (
        FrameRange("a.h5", "/data", 0, 1000),
        FrameRange("b.h5", "/data", 0, 5),
    )


def test_whole_files_stay_in_order():
    rows = RowRanges()
    for file in ("b.h5", "a.h5"):
        rows.add(FrameRange(file, "/data"))
    assert [found.file for found in rows.ranges()] == ["b.h5", "a.h5"]


def test_rows_of_points_that_are_taken_again_replace_the_first():
    for seed in range(200):
        generator = random.Random(seed)
        rows, expected, row = RowRanges(), [], 0
        for _ in range(30):
            place = len(expected)
            if generator.random() < 0.3 and expected:
                place = generator.randrange(len(expected))
            file, count = generator.choice("ab"), generator.randint(1, 4)
            rows.add(FrameRange(file, "/data", row, row + count), place)
            expected[place : place + count] = [(file, row + i) for i in range(count)]
            row += count
        found = rows.ranges()
        assert [(part.file, i) for part in found for i in range(part.start, part.stop)] == expected
