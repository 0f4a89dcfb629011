"""NAME=PATH, and paths that look like it."""

import pytest

from vla.commands.serve import names_and_paths
from vla.errors import UserError


def test_what_is_there_is_a_path_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("step=0000003.ckpt", "runs/lr=1,wd=2/export"):
        (tmp_path / path).mkdir(parents=True)
        assert list(names_and_paths(path).values()) == [path]
        assert list(names_and_paths(str(tmp_path / path)).values()) == [str(tmp_path / path)]
    assert names_and_paths("step=0000003.ckpt") == {"step-0000003.ckpt": "step=0000003.ckpt"}
    assert names_and_paths("a=step=0000003.ckpt,b=x") == {"a": "step=0000003.ckpt", "b": "x"}
    assert names_and_paths("step=0000003.ckpt,b=x") == {"step-0000003.ckpt": "step=0000003.ckpt", "b": "x"}
    # Nothing is there, but it cannot be a name.
    assert list(names_and_paths("checkpoints/step=0000009.ckpt").values()) == ["checkpoints/step=0000009.ckpt"]


def test_names_are_valid_and_different():
    assert names_and_paths("lift=runs/a,put=runs/b") == {"lift": "runs/a", "put": "runs/b"}
    assert names_and_paths("runs/a") == {"a": "runs/a"}
    with pytest.raises(UserError, match="two policies are called a"):
        names_and_paths("a=x,a=y")
    with pytest.raises(UserError, match="'my policy' is not valid"):
        names_and_paths("my policy=x")
