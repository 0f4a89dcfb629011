"""The README's commands: the cheap ones run, the others exist."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```sh( runnable)?\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
COMMANDS = [(line.split(" #")[0].strip(), bool(runnable)) for runnable, block in BLOCKS for line in block.splitlines() if line]


@pytest.mark.parametrize("command", [command for command, runnable in COMMANDS if runnable])
def test_runnable_command_runs(command):
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("target", [command.split()[1] for command, _ in COMMANDS if command.startswith("make ")])
def test_make_target_exists(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_every_vla_command_of_the_readme_is_in_the_help():
    text = (ROOT / "README.md").read_text()
    table = [
        name for row in re.findall(r"^\| `vla ([^|]*)\|", text, re.MULTILINE) for name in re.findall(r"[a-z][a-z0-9-]*", row)
    ]
    named = {line.split()[1] for line, _ in COMMANDS if line.startswith(".venv/bin/vla ")} - {"--help"} | set(table)
    assert len(named) >= 10
    listed = subprocess.run([ROOT / ".venv/bin/vla", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", listed)] == []


def prose(page):
    """A page without its code blocks."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def test_local_links_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!http|#)([^)#]+)", prose(page))]
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []
