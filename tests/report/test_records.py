import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.errors import UserError
from vla.report.records import FILE, EpisodeRecord, Record, load, parse

words = st.text(max_size=8)
named = st.text(min_size=1, max_size=8)
more = st.dictionaries(st.sampled_from(["target", "seconds", "objects"]), st.one_of(words, st.floats(0, 9), st.lists(words)))


@st.composite
def records(draw):
    keys = draw(st.lists(st.tuples(words, words, st.integers(0, 99), words), unique=True, max_size=4))
    episodes = []
    for key in keys:
        success = draw(st.booleans())
        failure = "" if success else draw(words)
        episodes.append(EpisodeRecord(*key, draw(words), draw(named), success, draw(st.integers(0, 99)), failure, draw(more)))
    contract = draw(st.one_of(st.none(), words))
    versions = draw(st.dictionaries(words, words, max_size=2))
    batch = draw(st.lists(st.integers(1, 9)))
    return Record(draw(words), draw(named), draw(named), contract, batch, versions, episodes, more=draw(more))


@settings(max_examples=30)
@given(records())
def test_what_is_written_is_read_again(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("record")
    path = written.save(folder)
    assert load(folder) == dataclasses.replace(written, source=str(folder))
    assert load(path).episodes == written.episodes
    assert [f.name for f in folder.iterdir()] == [FILE]


def test_summaries_may_hold_a_rate_of_no_trials(tmp_path, make):
    make("a", "10", more={"recognition": {"rate": math.nan, "n": 0}}).save(tmp_path / "deep" / "a")
    assert load(tmp_path / "deep" / "a").more == {"scenes": 4, "recognition": {"rate": None, "n": 0}}


def changed(data, key, value):
    """Returns the data with another value at a dotted key; None removes the key."""
    data = json.loads(json.dumps(data))
    *path, last = key.split(".")
    inner = data
    for part in path:
        inner = inner[int(part) if part.isdigit() else part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", None, "`kind` is missing"),
        ("kind", "curve", "unknown kind of record 'curve'\nFix: known: rollout"),
        ("suite_hash", None, "`suite_hash` is missing\nFix: required keys: suite, suite_hash"),
        ("suite_hash", "", "`suite_hash` is empty"),
        ("contract", 3, "`contract` is 3, not a string or null"),
        ("batch", [4.5], "`batch` is [4.5], not a list of integers"),
        ("versions", {"numpy": 2}, "`versions` is {'numpy': 2}, not an object of strings"),
        ("episodes", None, "`episodes` is missing"),
        ("episodes", 3, "`episodes` is not a list"),
        ("episodes.1.state", None, "`episodes[1].state` is missing"),
        ("episodes.1.state", "", "`episodes[1].state` is empty"),
        ("episodes.1.success", 1, "`episodes[1].success` is 1, not true or false"),
        ("episodes.1.seed", True, "`episodes[1].seed` is True, not an integer"),
        ("episodes.1.steps", math.inf, "`episodes[1].steps` is not a finite number"),
        ("episodes.1.seed", 0, "`episodes[1]` is episode 0 again (lift / seen, seed 0, correct instruction)"),
        ("episodes.0.failure", "dropped", "`episodes[0]` is a success with failure 'dropped'"),
        ("time", {"per_task": [1.0, math.nan]}, "`time.per_task[1]` is not a finite number"),
    ],
)
def test_what_does_not_keep_to_the_format_is_named(tmp_path, make, key, value, message):
    file = tmp_path / FILE
    file.write_text(json.dumps(changed(make("a", "10").to_dict(), key, value)))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value).startswith(f"{file}: {message}")


def test_what_is_no_record_is_named(tmp_path):
    for path, message in [(tmp_path, f"no {FILE} in this folder"), (tmp_path / "nowhere", "no such record")]:
        with pytest.raises(UserError, match=message):
            load(path)
    cases = [("{", "not JSON"), ("[1]", "not a JSON object"), ('{"kind": "rollout", "episodes": [3]}', "episodes")]
    for content, message in cases:
        (tmp_path / FILE).write_text(content)
        with pytest.raises(UserError, match=message):
            load(tmp_path)
    (tmp_path / FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not JSON"):
        load(tmp_path)


def test_nothing_is_written_that_could_not_be_read(tmp_path, make, episode):
    for bad in (make("", "1"), make("a", [episode(0), episode(0)]), make("a", [episode(success=True, failure="dropped")])):
        with pytest.raises(UserError):
            bad.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert parse(make("a", "1").to_dict(), "x").policy == "a"
