"""The command and its page."""

import json
import re

import numpy as np
import pytest

from vla import cli


def run(capsys, *arguments):
    code = cli.main(["compare", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def folders(tmp_path, make):
    rng = np.random.default_rng(0)
    hard = rng.random(80)
    for name, rate in [("demo", 0.9), ("scratch", 0.6), ("random", 0.05)]:
        outcomes = 0.5 * hard + 0.5 * rng.random(80) < 0.5 * rate + 0.25 * (rate > 0.1)
        make(f"runs/<{name}>/export", "".join("01"[int(x)] for x in outcomes)).save(tmp_path / name)
    return [tmp_path / name for name in ("demo", "scratch", "random")]


@pytest.mark.parametrize("count", [2, 3])
def test_the_command_says_and_writes_what_came_out(folders, tmp_path, capsys, count):
    code, shown, errors = run(capsys, *folders[:count], "--out", tmp_path / "deep" / "out")
    assert code == 0 and not errors
    assert "80 paired episodes" in shown and "<demo>" in shown and "Differences" in shown
    data = json.loads((tmp_path / "deep" / "out" / "compare.json").read_text())
    assert data["verdict"] in shown and all(sentence in shown for sentence in data["sentences"])
    assert data["alpha"] == 0.05 and len(data["pairs"]) == count * (count - 1) // 2 and data["versions"]["vla"]
    assert len(data["pairs"][0]["sequential"]["log10_e"]) == 80
    page = (tmp_path / "deep" / "out" / "compare.html").read_text()
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "&lt;demo&gt;" in text and "<demo>" not in page, "names are text, not markup"
    for word in ("nan", "None", "{{", "{%", "Undefined"):
        assert not re.search(rf"(?<![a-z]){word}(?![a-z])", text), word


def test_the_same_records_give_the_same_words(folders, capsys):
    first = run(capsys, *folders, "--alpha=0.01")
    assert first == run(capsys, "--alpha", "0.01", *folders) and "99 %" in first[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{demo}"], "only 1 record"),
        (["{demo}", "{demo}/results.json/.."], "no such record"),
        (["{demo}", "{demo}/../demo"], "given twice"),
        (["{demo}", "{tmp}/nothing"], "no such record"),
        (["{demo}", "{tmp}"], "no results.json in this folder"),
        (["{demo}", "{random}", "--alpha", "2"], "alpha is 2.0"),
        (["{demo}", "{random}", "--out", "{demo}/results.json"], "cannot write here"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(folders, tmp_path, capsys, arguments, message):
    demo, _, random = folders
    code, _, errors = run(capsys, *(a.format(demo=demo, random=random, tmp=tmp_path) for a in arguments))
    assert code == 2 and message in errors and errors.startswith("error: ") and "Traceback" not in errors


def test_without_records_it_says_what_it_wants(capsys):
    code, _, errors = run(capsys)
    assert code == 2 and "required: records" in errors
