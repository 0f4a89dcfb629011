"""Which OpenGL platform is chosen."""

import os
import sys

import pytest

from vla.sim import gl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo chooses")


@pytest.mark.parametrize(
    ("egl", "osmesa", "chosen"),
    [(True, True, "egl"), (False, True, "osmesa"), (False, False, "egl")],
)
def test_egl_then_osmesa(monkeypatch, egl, osmesa, chosen):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(gl, "_egl_opens", lambda: egl)
    monkeypatch.setattr(gl, "_loads", lambda *names: object() if osmesa else None)
    assert gl.choose() == chosen
    assert os.environ == {"MUJOCO_GL": chosen, "PYOPENGL_PLATFORM": chosen, "LP_NUM_THREADS": "1"}


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", {"MUJOCO_GL": "osmesa", "LP_NUM_THREADS": "3"})
    monkeypatch.setattr(gl, "_egl_opens", lambda: pytest.fail("looked although told"))
    assert gl.choose() == "osmesa"
    assert os.environ["PYOPENGL_PLATFORM"] == "osmesa" and os.environ["LP_NUM_THREADS"] == "3"


def test_a_missing_library_is_no_error():
    assert gl._loads("libNoSuchThing.so.0") is None
