"""The doctor with render processes that fail like real ones."""

import pytest

from vla import doctor


def lines(monkeypatch, probe: str) -> list[doctor.Check]:
    monkeypatch.setattr(doctor, "_PROBE", probe)
    return list(doctor.rendering())


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("import time; time.sleep(60)", "hangs"),
        ("raise RuntimeError('no such device')", "no such device"),
        ("import os; os.abort()", "ended with code"),
        ('print(\'{"name": "x", "milliseconds": 1, "blank": true}\')', "blank"),
    ],
)
def test_a_machine_that_cannot_render_is_reported(monkeypatch, probe, message):
    monkeypatch.setattr(doctor, "SECONDS", 0.5)
    checks = lines(monkeypatch, probe)
    assert not any(check.ok for check in checks)
    assert message in checks[0].detail and checks[0].fix
    assert checks[-1].fatal


def test_two_renderers_that_block_each_other_are_ended(monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 1.0)
    hangs_with_fifty_frames = (
        "import sys, time\n"
        "time.sleep(60 if sys.argv[1] == '50' else 0)\n"
        'print(\'{"name": "x", "milliseconds": 1, "blank": false}\')'
    )
    alone, together = lines(monkeypatch, hangs_with_fifty_frames)
    assert alone.ok
    assert not together.ok and "hangs" in together.detail and not together.fatal


def test_osmesa_is_found_where_egl_fails(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    only_osmesa = (
        "import os, sys\n"
        "if os.environ['MUJOCO_GL'] == 'egl': sys.exit('no display')\n"
        'print(\'{"name": "x", "milliseconds": 1, "blank": false}\')'
    )
    first, second, advice, _ = lines(monkeypatch, only_osmesa)
    assert not first.ok and second.ok and "MUJOCO_GL=osmesa" in advice.fix


@pytest.mark.slow
def test_the_fix_for_too_many_renderers_names_what_works(monkeypatch, tmp_path):
    """At most three renderers work at a time; each has a file while it runs."""
    monkeypatch.setattr(doctor, "SECONDS", 5.0)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    crowded = (
        "import os, sys, time, pathlib\n"
        "if os.environ['MUJOCO_GL'] != 'egl': sys.exit('no such library')\n"
        f"mine = pathlib.Path({str(tmp_path)!r}) / str(os.getpid())\n"
        "mine.touch(); time.sleep(0.6); many = len(list(mine.parent.iterdir())) > 3; time.sleep(0.6); mine.unlink()\n"
        "if many: sys.exit('too many contexts')\n"
        'print(\'{"name": "x", "milliseconds": 1, "blank": false}\')'
    )
    monkeypatch.setattr(doctor, "_PROBE", crowded)
    alone, together = list(doctor.rendering(6))
    assert alone.ok and not together.ok and "6 at the same time: " in together.detail and "--workers 3" in together.fix
    assert list(doctor.rendering(3))[-1].ok


def test_exit_code_is_that_of_the_fatal_checks(monkeypatch, capsys):
    passed, failed, fatal = (doctor.Check("x", *rest) for rest in ((True, ""), (False, "", "f"), (False, "", "f", True)))
    for checks, code in (([passed, failed], 0), ([passed, fatal], 1)):
        monkeypatch.setattr(doctor, "checks", lambda _, checks=checks: iter(checks))
        assert doctor.doctor() == code
    assert "fix: f" in capsys.readouterr().out
