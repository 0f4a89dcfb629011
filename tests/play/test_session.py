"""What is played, without a page: scenes, sentences, who acts, what is kept."""

import json
import tarfile

import numpy as np
import pytest

from vla.datasets.card import DatasetCard
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.play.session import Session
from vla.report.video import read_video
from vla.sim.suites import Suite
from vla.sim.variation import SEEN
from vla.sim.workers import Workers

SUITE = Suite("toy", ("lift",), (SEEN,), horizon=6)


@pytest.fixture
def play(toy, tmp_path):
    """play(policies, trouble): a session on simulations without a simulator."""
    opened = []

    def open_session(policies, trouble=""):
        workers = Workers(len(policies), toy(trouble, tmp_path / "marker"))
        opened.append(workers)
        session = Session(policies, SUITE, workers, str(tmp_path / "out"))
        opened.append(session)
        return session

    yield open_session
    for one in reversed(opened):
        one.close()


def player(session, name):
    return next(one for one in session.state()["players"] if one["name"] == name)


def steps_of(folder):
    """The `json` of every step, in order."""
    told = []
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as shard:
            told += [json.load(shard.extractfile(m)) for m in shard.getmembers() if m.name.endswith(".json")]
    return told


def test_side_by_side_to_the_end_and_kept(seeing, play, tmp_path):
    session = play({"seeing": seeing(), "expert": None})
    first = session.frames()
    assert len(first) == 4 and first[:2] == first[2:], "the same scene, seen by the same two cameras"
    for name in ("seeing", "expert"):
        session.step()
        assert player(session, name)["steps"] and len(session.frames()) == 4
    while not session.over:
        session.step()
    state = json.loads(json.dumps(session.state()))
    assert [p["steps"] for p in state["players"]] == [6, 6] and all(p["failure"] is not None for p in state["players"])
    plotted = player(session, "seeing")
    assert len(plotted["actions"]) == 3 and plotted["executed"] == 2 and plotted["at"] == 2, "a chunk, executed two at a time"
    assert [d["name"] for d in plotted["space"]] == ["dx", "dy", "dz", "drz", "gripper"], "constant dimensions are left out"
    assert len(player(session, "expert")["actions"]) == 6
    session.save()
    (folder,) = (tmp_path / "out").iterdir()
    films = sorted(path.name for path in folder.glob("films/*.mp4"))
    assert len(films) == 3 and films[0] == "001-side-by-side.mp4" and len(read_video(folder / "films" / films[1])) >= 7
    assert len(json.loads(next(folder.glob("films/*-seeing.json")).read_text())["actions"]) == 6
    # Complete although the session is still open.
    for name, actor in (("seeing", "policy"), ("expert", "expert")):
        assert len(RobotSource(folder / "data" / name, chunk=2)) == 6
        assert {told["actor"] for told in steps_of(folder / "data" / name)} == {actor}
    assert DatasetCard.load(folder / "data/seeing").generator == {"command": "vla play", "policy": "seeing", "task": "lift"}
    with pytest.raises(UserError, match="nothing new"):
        session.save()
    session.begin()
    session.step()
    session.save()
    assert len(RobotSource(folder / "data/seeing", chunk=2)) == 7 and steps_of(folder / "data/seeing")[-1]["failure"] == "stopped"
    assert session.over, "what is kept half-way ends there"


def test_the_expert_takes_over_and_gives_back(seeing, play, tmp_path):
    session = play({"seeing": seeing()})
    session.step()
    session.hand_over("seeing", "expert")
    session.step()
    session.hand_over("seeing", "policy")
    session.step()
    assert player(session, "seeing")["at"] == 1, "the policy is asked anew: what it planned before is out of date"
    assert player(session, "seeing")["by_expert"] == 1
    session.save()
    told = steps_of(next((tmp_path / "out").iterdir()) / "data/seeing")
    assert [t["actor"] for t in told] == ["policy", "expert", "policy"]
    with pytest.raises(UserError, match="cannot act"):
        session.hand_over("nobody", "policy")


def test_a_sentence_in_the_middle_of_a_scene(seeing, play):
    session = play({"seeing": seeing()})
    session.step()
    before, there = session.frames(), session.state()["objects"]
    session.tell("flib the mardy zorp")
    state = session.state()
    assert not state["goal"] and all(name in state["note"] for name in there) and player(session, "seeing")["steps"] == 0
    session.step()
    assert player(session, "seeing")["steps"] == 1, "the policy acts all the same"
    with pytest.raises(UserError, match="names no goal") as error:
        session.hand_over("seeing", "expert")
    assert there[0] in error.value.fix
    session.tell(f"lift the {there[1]}")
    assert session.state()["goal"] == there[1] and not session.state()["note"] and session.state()["objects"] == there
    session.hand_over("seeing", "expert")
    session.tell("")
    assert session.state()["note"].startswith("Nothing is asked for") and player(session, "seeing")["actor"] == "policy"
    session.begin()
    assert session.instruction == "" and not session.state()["goal"], "what was told stays with the scene"
    session.choose("rt2/unseen-objects", "drum", "lift", 3)
    state = session.state()
    assert (state["suite"], state["variation"], state["scene"]) == ("rt2/unseen-objects", "drum", 3) and state["instruction"]
    assert session.frames() != before
    for wrong, part in (("suite", ("no", "", "lift")), ("task", ("rt2/seen", "", "robosuite-Lift"))):
        with pytest.raises(UserError, match=f"unknown {wrong}"):
            session.choose(*part, 0)
    with pytest.raises(UserError, match="no wording"):
        session.choose("rt2/paraphrases", "other verbs", "push", 0)
    assert session.state()["suite"] == "rt2/unseen-objects", "what was refused changed nothing"


def test_one_simulation_fails_and_the_other_goes_on(seeing, play):
    session = play({"one": seeing(), "two": seeing()}, "kill")
    session.choose("toy", "seen", "lift", 1)
    session.step()
    session.step()
    faults = {p["name"]: p["fault"] for p in session.state()["players"]}
    (failed,) = [name for name, fault in faults.items() if "ended" in fault]
    session.step()
    assert sorted(p["steps"] for p in session.state()["players"]) == [1, 3] and not session.over
    with pytest.raises(UserError, match="no scene"):
        session.tell("lift the red cube")
    session.begin()
    session.step()
    assert player(session, failed)["steps"] == 1 and not player(session, failed)["fault"]


def test_a_policy_that_fails_moves_nobody(seeing, play):
    def spoil(observation, actions):
        return actions * np.nan if broken else actions

    session = play({"good": seeing(), "bad": seeing(spoil)})
    broken = True
    with pytest.raises(UserError):
        session.step()
    assert [p["steps"] for p in session.state()["players"]] == [0, 0]
    broken = False
    session.step()
    assert [(p["steps"], p["at"]) for p in session.state()["players"]] == [(1, 1), (1, 1)]
    with pytest.raises(UserError, match="learned to answer"):
        session.ask("what colour is the cube")
