"""Runs tests in a process of their own and returns what they recorded with `record_property`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]


def run(file: str, wanted: str) -> dict[str, dict[str, object]]:
    """What each test recorded, by its name; `passed` says whether it passed.

    Args:
        file: below `tests/`.
        wanted: pytest's expression (-k) for the tests; slow ones are among them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={ROOT}"]
        line += [f"--basetemp={folder}/runs", f"--junitxml={report}", "-m", "", "-k", wanted, str(ROOT / "tests" / file)]
        subprocess.run(line, cwd=folder, stdout=sys.stderr, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    results = {}
    for case in cases:
        properties = {str(p.get("name")): p.get("value") for p in case.iter("property")}
        passed = all(case.find(end) is None for end in ("failure", "error", "skipped"))
        results[str(case.get("name"))] = {"passed": passed, **properties}
    return results
