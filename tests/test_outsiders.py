"""The cases of benchmarks/outsiders.py are well formed, and their runner reports what differs."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def outsiders(monkeypatch):
    pytest.importorskip("h5py")
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import outsiders

    return outsiders


def test_every_case_says_what_is_expected(outsiders):
    cases = outsiders.load_cases()
    helpers = {
        "__init__",
        "clients",
        "command",
        "lerobot_folder",
        "pixels",
        "project",
        "rlds_folder",
        "tar_files",
        "trial",
        "written",
    }
    assert {path.stem for path in (BENCHMARKS / "outside").glob("*.py")} == helpers | set(outsiders.AREAS)
    assert len(cases) > 100 and len({(c.area, c.name) for c in cases}) == len(cases)
    for case in cases:
        assert case.expected.endswith(".") and "\n" not in case.expected, case.name
        assert not case.seen or ("/" in case.seen and case.seen.rpartition("#")[2].isdigit()), case.name


def test_what_differs_is_reported_with_the_commands_words(outsiders, tmp_path):
    from outside.trial import Case, Trial

    def run(trial: Trial) -> None:
        (trial.folder / "in.json").write_text("[")
        trial.vla("data", "verify", "in.json", code=2, says="not JSON")
        trial.vla("data", "verify", "in.json", code=0)

    got, _ = outsiders.outcome(Case("here", "a case", "It ends well.", "", run), tmp_path)
    assert "exits with 2, not 0" in got and "not JSON" in got
    text = outsiders.table([(Case("here", "a case", "It ends well.", "", run), got)])
    assert "It ends well." in text and text.lstrip().startswith("here:")
