"""A later configuration that replaces a list says so."""

import pytest
import yaml

from vla.commands.replaced import say_what_is_replaced

FIRST = {
    "trainer": {"callbacks": [{"class_path": "vla.training.saving.Checkpoints"}, {"class_path": "vla.training.callbacks.EMA"}]},
    "data": {"sources": {"robot": {}, "questions": {}}},
    "collect": {"robot": {}},
}
EMA = {"class_path": "vla.training.callbacks.EMA"}


@pytest.mark.parametrize(
    ("second", "options", "gone"),
    [
        ({"trainer": {"callbacks": [EMA]}}, [], "`trainer.callbacks`, without Checkpoints"),
        ({"trainer": {"callbacks": EMA}}, [], "`trainer.callbacks`, without Checkpoints"),
        ({"trainer": {"callbacks": None}}, [], "`trainer.callbacks`, without Checkpoints, EMA"),
        ({"data": {"sources": {"robot": {"weight": 1}}}}, [], "`data.sources`, without questions"),
        ({"collect": {"other": {}}}, [], "`collect`, without robot"),
        ({}, ["--trainer.callbacks=vla.training.callbacks.EMA"], "`trainer.callbacks`, without Checkpoints"),
        ({}, ["--trainer.callbacks", "[{class_path: vla.training.callbacks.EMA}]"], "`trainer.callbacks`, without Checkpoints"),
        ({"trainer": {"callbacks+": [{"class_path": "a.B"}]}}, ["--trainer.callbacks=a.EMA"], "without Checkpoints, B"),
        ({"trainer": {"callbacks+": [EMA]}}, ["--trainer.callbacks+=a.B", "--trainer.callbacks.every=3"], ""),
        ({"trainer": {"callbacks": FIRST["trainer"]["callbacks"]}}, ["--data.sources.robot.init_args.weight=1"], ""),
        ({"model": {"vlm": "tiny"}}, ["--trainer.max_steps=3"], ""),
    ],
)
def test_what_a_later_configuration_leaves_out_is_named(tmp_path, capsys, second, options, gone):
    files = []
    for name, content in (("first", FIRST), ("second", second)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        files += ["-c", str(tmp_path / f"{name}.yaml")]
    say_what_is_replaced(["fit", *files, *options])
    said = capsys.readouterr().err
    assert gone in said and said.count("note: ") == bool(gone)
