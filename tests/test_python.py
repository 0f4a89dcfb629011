"""`import vla` is small and lazy, and docs/python.md says what happens."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vla
from vla.errors import UserError
from vla.policies.load import load_policy
from vla.serving.server import running

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the data and the export of the page."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(ROOT / "tests/saved/data/robot", folder / "data/own")
    shutil.copytree(ROOT / "tests/saved/export", folder / "runs/own/export")
    return folder


def test_importing_vla_loads_no_model_library(own):
    code = (
        "import sys, vla\n"
        "assert not {'torch', 'transformers', 'numpy', 'vla.contract'} & set(sys.modules)\n"
        "vla.Observation, vla.load_policy, vla.evaluate_offline, vla.open_dataset('data/own').demonstrations()\n"
        "assert not {'torch', 'transformers', 'lightning', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=own, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there_and_no_other():
    for name in vla.__all__:
        assert callable(getattr(vla, name)) and name in dir(vla)
    with pytest.raises(AttributeError, match="module 'vla' has no attribute 'open_datasets'"):
        vla.open_datasets  # noqa: B018


def test_the_page_says_what_happens(own, monkeypatch):
    monkeypatch.chdir(own)
    names, said = {}, []
    with running(load_policy("runs/own/export")) as url:
        for code, _ in BLOCKS:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code.replace("http://127.0.0.1:8000", url), names)
            said.append(output.getvalue())
    assert len(BLOCKS) == PAGE.count("```python")
    assert said == [output for _, output in BLOCKS]


def test_what_cannot_be_opened_is_said_at_once(own):
    with pytest.raises(UserError, match="no dataset card"):
        vla.open_dataset(own)
    with pytest.raises(UserError, match="our shards have both"):
        vla.open_dataset(own / "data/own", size=64)
