"""The page at /docs: its examples run as they stand."""

import dataclasses
import html
import re
import shutil
import subprocess
import sys

import httpx
import pytest

from vla.contract import Camera
from vla.serving.server import running


def examples(url):
    """The page's examples, by language."""
    return {name: html.unescape(code) for name, code in re.findall(r"<pre class=example id='(\w+)'>(.*?)</pre>", url, re.DOTALL)}


@pytest.fixture(scope="module")
def odd(policy_class, contract):
    """A policy whose names have quotes of all kinds, and a camera that is not square."""
    embodiment = contract.embodiment()
    state = dataclasses.replace(embodiment.state, names=("it's", 'a "b"', "c\\d", "é", "two\nlines"))
    cameras = (Camera("front", 64, 64), Camera("wrist", 48, 80))
    odd = dataclasses.replace(embodiment, state=state, cameras=cameras)
    return policy_class(dataclasses.replace(contract, embodiments={"o'dd": odd}))


def test_the_examples_run_as_they_stand(odd, policy_class):
    with running({"first": policy_class(), "o.dd": odd}) as url:
        for prefix in ("", "/policies/o.dd"):
            page = httpx.get(f"{url}{prefix}/docs").text
            assert page.index("class=example") < page.index("<details>"), "first, and not folded"
            found = examples(page)
            assert f"{url}{prefix}/act" in found["curl"] and f"{url}{prefix}/act" in found["Python"]
            run = subprocess.run([sys.executable, "-c", found["Python"]], capture_output=True, text=True, timeout=60)
            assert run.returncode == 0 and run.stdout.startswith("[[128."), run.stderr
            if shutil.which("curl"):
                run = subprocess.run(["sh", "-c", found["curl"]], capture_output=True, text=True, timeout=60)
                assert run.returncode == 0 and run.stdout.startswith('{"actions":[[128.0,128.0'), run.stdout + run.stderr
