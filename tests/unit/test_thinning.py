"""Long event pages are thinned for whoever looks at them; nothing else changes."""

import event_model
from hypothesis import given
from hypothesis import strategies as st

from beamline.session import make_run_engine
from callbacks.thinning import ThinnedPages


class Seen:
    def __init__(self):
        self.docs = []

    def __call__(self, name, doc):
        self.docs.append((name, doc))

    @property
    def rows(self):
        return [n for name, doc in self.docs if name == "event_page" for n in doc["seq_num"]]


def page(first, rows):
    numbers = list(range(first, first + rows))
    return {
        "descriptor": "d",
        "uid": [f"e{n}" for n in numbers],
        "seq_num": numbers,
        "time": [float(n) for n in numbers],
        "data": {"x": [10 * n for n in numbers]},
        "timestamps": {"x": [0.5 * n for n in numbers]},
        "filled": {},
    }


@given(st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 10)), max_size=30))
def test_rows_per_second(pages):
    now, said, seen = [0.0], [], Seen()
    thinned = ThinnedPages(seen, say=said.append, clock=lambda: now[0])
    thinned("start", {})
    first, least = 1, 0
    for rows, seconds in pages:
        now[0] += seconds
        thinned("event_page", page(first, rows))
        first += rows
        least += rows > 0
        assert len(seen.rows) <= 50 + 20 * now[0] + least
        assert seen.docs[-1][1]["seq_num"][-1:] == ([first - 1] if rows else [])
    total = first - 1
    assert len(seen.rows) >= min(total, 50)
    for name, doc in seen.docs[1:]:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        assert doc["data"]["x"] == [10 * n for n in doc["seq_num"]]
        assert doc["timestamps"]["x"] == [0.5 * n for n in doc["seq_num"]]
        assert doc["uid"] == [f"e{n}" for n in doc["seq_num"]]
        assert sorted(set(doc["seq_num"])) == doc["seq_num"]
    thinned("stop", {})
    thinned("stop", {})
    left_out = len(seen.rows) < total
    assert len(said) == 2 * left_out
    if left_out:
        assert said[0].startswith(f"{len(seen.rows)} of {total} rows were shown")


def test_other_documents_and_short_pages_pass_as_they_are():
    seen = Seen()
    thinned = ThinnedPages(seen)
    given_docs = [("start", {"uid": "r"}), ("event", {"seq_num": 1}), ("event_page", page(1, 50))]
    for name, doc in given_docs:
        thinned(name, doc)
    assert [doc for _, doc in seen.docs] == [doc for _, doc in given_docs]
    assert seen.docs[2][1] is given_docs[2][1]


class Points:
    """A flyer whose points are all there at once."""

    name = "points"
    parent = None

    def kickoff(self):
        return self.complete()

    def complete(self):
        from ophyd.status import Status

        status = Status()
        status.set_finished()
        return status

    def describe_collect(self):
        return {"primary": {"x": {"source": "test", "dtype": "number", "shape": []}}}

    def collect_pages(self):
        times = [float(n) for n in range(4000)]
        yield {"data": {"x": times}, "timestamps": {"x": times}, "time": times}


def test_the_table_of_a_session_is_thinned_and_the_journal_is_not(tmp_path, capsys):
    import bluesky.plans as bp

    from beamline.store import DataStore

    store = DataStore(tmp_path, writers=("nexus", "cxi", "xpcs"))
    rows = []
    engine = make_run_engine(store, progress=False)
    engine.subscribe(lambda name, doc: rows.extend(doc["seq_num"]), "event_page")
    engine(bp.fly([Points()]))
    store.close()
    printed = capsys.readouterr().out
    assert len(rows) == 4000
    assert "50 of 4000 rows were shown" in printed
    assert printed.count("\n") < 100
