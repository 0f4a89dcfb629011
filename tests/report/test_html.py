import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vla.report.bars import check
from vla.report.html import write_report
from vla.report.intervals import wilson

GOOD = {
    "success": wilson(38, 40).to_dict(),
    "execution": wilson(39, 40).to_dict(),
    "recognition": wilson(38, 39).to_dict(),
    "wrong_object": wilson(1, 40).to_dict(),
    "swapped_instruction": wilson(18, 20).to_dict(),
    "empty_instruction": wilson(4, 10).to_dict(),
    "vqa": {
        "accuracy": 0.95,
        "n": 196,
        "low": 0.92,
        "high": 0.97,
        "blank_accuracy": 0.4,
        "blank": wilson(78, 196).to_dict(),
        "lead": {"rate": 0.55, "n": 196, "low": 0.48, "high": 0.61},
        "types": {"where": {"accuracy": 0.9, "n": 100, "low": 0.83, "high": 0.94, "blank": wilson(3, 100).to_dict()}},
    },
    "valid_mass": 0.998,
    "seconds": {"collect": 100.0, "train": 500.0, "rollout": 90.0, "total": 800.0},
    "peak_pss_mib": 5000.0,
    "versions": {"torch": "2.15"},
    "commit": "abc1234",
}


class Outside(HTMLParser):
    """Addresses that a page loads, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.loaded, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href", "poster")]

    def handle_data(self, data):
        self.text += data


def test_bars_are_checked_on_the_names_of_report_json():
    assert all(bar["holds"] for bar in check(GOOD).values()) and len(check(GOOD)) == 8
    worse = {**GOOD, "success": wilson(20, 40).to_dict(), "vqa": {"accuracy": 0.95, "blank_accuracy": 0.7}}
    failed = {key for key, bar in check(worse).items() if not bar["holds"]}
    assert failed == {"success.rate", "vqa.accuracy - vqa.blank_accuracy"}
    slow = {**GOOD, "seconds": {"total": 2000.0}}
    recorded = {**slow, "success": wilson(114, 120).to_dict()}
    assert check(recorded)["seconds.total"]["holds"] and not check(slow)["seconds.total"]["holds"]
    assert json.dumps(check(GOOD), allow_nan=False)


@pytest.mark.parametrize("missing", [{"valid_mass": None}, {"success": {"rate": float("nan"), "n": 0}}, {"vqa": {}}])
def test_a_bar_whose_number_is_missing_is_missed_and_said_so(missing, tmp_path):
    data = {**GOOD, **missing}
    key = {"valid_mass": "valid_mass", "success": "success.rate", "vqa": "vqa.accuracy"}[next(iter(missing))]
    bar = check(data)[key]
    assert len(check(data)) == len(check(GOOD)) and (bar["value"], bar["holds"], bar["verdict"]) == (None, False, "not measured")
    text = re.sub(r"\s+", " ", Outside(write_report(tmp_path / "report.html", data).read_text()).text)
    assert "bars missed" in text and "not measured; required: at least" in text


def test_the_recorded_run_has_the_experts_bar():
    recorded = {**GOOD, "success": wilson(114, 120).to_dict()}
    assert not check(recorded)["expert.rate"]["holds"]
    assert check({**recorded, "expert": wilson(199, 200).to_dict()})["expert.rate"]["holds"]


@pytest.mark.parametrize(
    ("successes", "verdict"),
    [(120, "reached"), (97, "reached, within the noise"), (93, "missed, within the noise"), (40, "missed")],
)
def test_a_bar_held_by_a_hair_is_said_to_be(successes, verdict, tmp_path):
    data = {**GOOD, "success": wilson(successes, 120).to_dict(), "expert": wilson(200, 200).to_dict()}
    bar = check(data)["success.rate"]
    assert bar["verdict"] == verdict and bar["interval"][0] <= bar["value"] <= bar["interval"][1]
    text = re.sub(r"\s+", " ", Outside(write_report(tmp_path / "report.html", data).read_text()).text)
    line = re.search(r"Success: ([\d.]+) % \(([\d.]+) to ([\d.]+) %, n = 120\); required: at least 80 %: ([a-z, ]+)", text)
    if verdict == "reached":
        assert line is None
    else:
        assert line[4].startswith(verdict) and float(line[2]) < 80 < float(line[3]) or verdict == "missed"


def test_a_wrong_object_bar_is_held_from_below():
    assert check(GOOD)["wrong_object.rate"]["verdict"] == "reached, within the noise"
    assert check({**GOOD, "wrong_object": wilson(0, 200).to_dict()})["wrong_object.rate"]["verdict"] == "reached"


def test_the_page_says_the_result_and_loads_only_its_own_videos(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    video = tmp_path / "elsewhere" / "a.mp4"
    video.write_bytes(b"film")
    image = np.zeros((64, 64, 3), np.uint8)
    path = write_report(
        tmp_path / "run" / "report.html",
        GOOD,
        videos=[{"path": video, "title": "lift <b>it</b>", "outcome": "success"}],
        samples=[
            {"image": image, "question": "where is it", "answer": "0.1, 0.2", "truth": "0.5, 0.5", "point": (0.1, 0.2)},
            {"image": image, "question": "what colour is it", "answer": "red", "truth": "red"},
        ],
        metrics={"train/robot_loss": ([0, 1, 2], [3.0, 2.0, 1.0])},
    )
    page = Outside(path.read_text())
    for address in page.loaded:
        assert address.startswith("data:") or (path.parent / address).is_file(), address
    assert (path.parent / "videos" / "a.mp4").read_bytes() == b"film"
    text = re.sub(r"\s+", " ", page.text)
    for words in (
        "in 38 of 40 unseen scenes",
        "All 8 bars reached",
        "lift <b>it</b>",
        "truth: 0.5, 0.5",
        "abc1234",
        "Robot loss",
        "83 to 99 %, n = 40",
        "92 to 97 %, n = 196",
        "where10090 % (83 to 94)3 % (1 to 8)",
        "Wrong object: 2.5 % (0.4 to 12.9 %, n = 40); required: at most 5 %",
    ):
        assert words in text, words
    assert "other 1.8 min" in text, "time that no stage accounts for is shown"


def test_a_rate_below_its_bar_is_said_plainly(tmp_path):
    data = {**GOOD, "success": wilson(20, 40).to_dict(), "notes": ["A smoke run."]}
    text = re.sub(r"\s+", " ", Outside(write_report(tmp_path / "report.html", data).read_text()).text)
    assert (
        "1 of 8 bars missed." in text
        and "Success: 50 % (35.2 to 64.8 %, n = 40); required: at least 80 %: missed" in text
        and "A smoke run." in text
    )


@pytest.mark.parametrize("name", [None, *GOOD])
def test_what_is_missing_is_left_out(tmp_path, name):
    data = {} if name is None else {name: GOOD[name]}
    page = write_report(tmp_path / "report.html", data).read_text()
    for word in ("None", "nan", "Undefined", "{{", "{%"):
        assert word not in Outside(page).text.replace("querySelectorAll", ""), word
