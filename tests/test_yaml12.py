"""Numbers as people write them in YAML."""

import pytest
import yaml

from vla import yaml12
from vla.commands.configs import with_paths
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.source_card import load_source_card
from vla.errors import UserError
from vla.rl.runs.compose import _read
from vla.sim.suites import load_suite


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-1e-3", -0.001),
        ("+2E2", 200.0),
        ("1.e+3", 1000.0),
        (".5e1", 5.0),
        ("1.5e-4", 0.00015),
        ("0.001", 0.001),
        ("3", 3),
        ("true", True),
        ("e3", "e3"),
        ("1e", "1e"),
        ("695e0514", "695e0514"),
        ("1e3m", "1e3m"),
        ('"1e-3"', "1e-3"),
    ],
)
def test_numbers_and_texts(text, value):
    loaded = yaml12.load(f"key: {text}\n")["key"]
    assert loaded == value and type(loaded) is type(value)


@pytest.mark.parametrize("value", ["1e-3", "12345e12", "695e0514", "yes", 1e-7, 1e22, -0.001, 7, None, "text"])
def test_what_is_written_is_read_back(value):
    assert yaml12.load(yaml12.dump({"key": value})) == {"key": value}


def test_every_yaml_file_of_a_user(tmp_path):
    card = "embodiment: arm\naction: [{key: a, names: [x], low: -1e-3, high: 2e2}]\ncontrol_hz: 1e1\n"
    (tmp_path / "card.yaml").write_text(card)
    loaded = load_source_card(str(tmp_path / "card.yaml"))
    assert (loaded.action[0].low, loaded.action[0].high, loaded.control_hz) == (-0.001, 200.0, 10.0)
    space = "{names: [x], units: [m], low: [-1e-3], high: [1e0]}"
    spec = f"{{cameras: [], state: {space}, action: {space}}}"
    (tmp_path / "card.yaml").write_text(f"name: n\nkind: robot\nembodiment: arm\nspec: {spec}\n")
    assert DatasetCard.load(tmp_path).spec.action.low == (-0.001,)
    (tmp_path / "rl.yaml").write_text("learner: {arguments: {learning_rate: 3e-4}}\n")
    assert _read(str(tmp_path / "rl.yaml"))["learner"] == {"arguments": {"learning_rate": 0.0003}}
    # A file with old names is written again.
    source = "{class_path: vla.datasets.questions.QuestionSource, init_args: {folder: a, asked: 1, weight: 1e-1}}"
    (tmp_path / "fit.yaml").write_text(f"model: {{learning_rate: 1e-4}}\ndata: {{sources: {{q: {source}}}}}\n")
    renamed = with_paths(["fit", "-c", str(tmp_path / "fit.yaml")])[2]
    with open(renamed) as file:
        content = yaml12.load(file.read())
    assert content["model"]["learning_rate"] == 0.0001 and content["data"]["sources"]["q"]["init_args"]["weight"] == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 2000, "nested too deeply"),
        ("a: " + "{b: " * 2000, "nested too deeply"),
        ("a: &a [*a]", "an alias to what it is part of"),
    ],
)
def test_what_no_reader_of_it_could_walk_through_is_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        yaml12.load(text)


def test_an_alias_to_another_part_is_read():
    assert yaml12.load("a: &a [1, {b: 2}]\nc: *a\n") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


@pytest.mark.parametrize("read", [lambda path: with_paths(["fit", "-c", path]), load_source_card, load_suite, _read])
def test_every_reader_names_the_file(read, tmp_path):
    file = tmp_path / "deep.yaml"
    file.write_text("[" * 2000)
    with pytest.raises(UserError, match="nested too deeply") as error:
        read(str(file))
    assert str(file) in str(error.value)
