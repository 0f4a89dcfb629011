"""The page of an evaluation, from hand-made episodes."""

from vla.evaluation.text import outcome
from vla.report.evaluation_page import write_evaluation
from vla.report.records import EpisodeRecord, Record
from vla.report.summary import summarise


def test_other_tasks_goals_are_on_the_page_and_in_the_text(tmp_path):
    episodes = [
        EpisodeRecord("put", "seen", 0, "correct", "put it", "s", True, 5, "", {"executed": True, "other_tasks": []}),
        EpisodeRecord("put", "seen", 1, "correct", "put it", "s", False, 5, "timeout", {"other_tasks": ["push: a to the left"]}),
    ]
    run = {"episode_seconds": 1.0, "restarts": [], "command": "vla", "commit": "c", "hardware": "h"}
    record = Record(
        "s", "1", "p", None, [2], {}, episodes, more={"summary": summarise(episodes), "run": run, "about": "", "execute": 1}
    )
    page = write_evaluation(tmp_path, record).read_text()
    assert "<td>another task&#39;s goal</td><td>1</td>" in page.replace("\n", "")
    assert "another task's goal reached, correct instruction: 50 % of 2" in outcome(record)
