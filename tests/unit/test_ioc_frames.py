"""Frame headers."""

import pytest

from beamline.core.errors import DeviceServerError
from ioc.frames import FrameHeader, parse_frame_header


def test_a_header_is_understood():
    line = "FRAME:12:3,1700000000.5,uint16,512x1024,1048576,9000.25,0.1"
    assert parse_frame_header(line) == FrameHeader(
        12, 3, 1700000000.5, "uint16", (512, 1024), 1048576, 9000.25, 0.1
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "FRAME:1:2",
        "FRAME:1:2,3,uint16,4x6,47,9000,0.1",
        "FRAME:1:2,3,uint16,4,6,48,9000,0.1",
        "FRAME:1:2,3,uint16,24,48,9000,0.1",
        "FRAME:1:2,3,uint16,4x,48,9000,0.1",
        "FRAME:1:2,3,float32,4x6,48,9000,0.1",
        "FRAME:1:2,3,uint16,-4x-6,48,9000,0.1",
        "FRAME:x:2,3,uint16,4x6,48,9000,0.1",
        "FRAME:1:2,3,uint16,100000x100000,20000000000,9000,0.1",
        "FRAME:1:2,3,uint16,2x2x4x6,192,9000,0.1",
        "FRAME:1:2,3,events,4x6,7,9000,0.1",
        "FRAME:1:2,3,events,4x6,-4,9000,0.1",
        "OK:FRAMES",
    ],
)
def test_a_broken_header_is_refused(line: str):
    with pytest.raises(DeviceServerError, match="can't be read"):
        parse_frame_header(line)


def test_events_need_no_pixels():
    header = parse_frame_header("FRAME:12:3,17.5,events,16x512x512,8,9000.25,0.1")
    assert (header.dtype, header.shape, header.nbytes) == ("events", (16, 512, 512), 8)
    assert parse_frame_header("FRAME:12:3,17.5,events,512x512,0,9000.25,0.1").nbytes == 0
