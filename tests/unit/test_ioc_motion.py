"""When a motion is over, and the arithmetic of motor coordinates."""

from hypothesis import given
from hypothesis import strategies as st

from ioc.motion import MotionTracker
from ioc.motor_fields import Coordinates


@given(st.lists(st.sampled_from(["send", "answer", "refuse", "rest", "moving"]), max_size=40))
def test_it_is_never_over_before_the_newest_accepted_move_was_reported_at_rest(events: list[str]):
    tracker = MotionTracker()
    unanswered, rest_since_accepted, any_sent = 0, True, False
    for event in events:
        if event == "send":
            tracker.sent()
            unanswered, any_sent = unanswered + 1, True
        elif event in {"answer", "refuse"} and unanswered:
            tracker.answered(accepted=event == "answer")
            unanswered -= 1
            if event == "answer":
                rest_since_accepted = False
        elif event in {"rest", "moving"}:
            tracker.reported(at_rest=event == "rest")
            rest_since_accepted = event == "rest"
        assert tracker.finished == (any_sent and unanswered == 0 and rest_since_accepted)


finite = st.floats(-1e6, 1e6)


@given(finite, finite, st.sampled_from([1, -1]))
def test_dial_and_user_are_inverse(dial: float, offset: float, direction: int):
    coordinates = Coordinates(offset, direction)
    assert abs(coordinates.to_dial(coordinates.to_user(dial)) - dial) <= 1e-9


@given(finite)
def test_without_an_offset_nothing_is_rounded(dial: float):
    assert Coordinates().to_user(dial) == dial
    assert Coordinates(0.0, -1).to_dial(Coordinates(0.0, -1).to_user(dial)) == dial


@given(finite, finite, finite, st.sampled_from([1, -1]))
def test_limits_stay_in_order(a: float, b: float, offset: float, direction: int):
    low, high = Coordinates(offset, direction).limits_to_user(min(a, b), max(a, b))
    assert low <= high
