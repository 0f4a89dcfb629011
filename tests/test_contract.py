import dataclasses
import json

import numpy as np
import pytest

from vla.contract import Camera, Embodiment, PolicyContract
from vla.datasets.statistics import space_with_statistics
from vla.errors import ContractMismatch, UserError
from vla.space import Space

STATE = Space(("x", "y"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0))
ACTION = Space(("dx", "grip"), ("m", ""), (-0.1, -1.0), (0.1, 1.0), (None, 0.0), {"mean": (0.0, 0.5)})


def contract(**changes) -> PolicyContract:
    robot = Embodiment((Camera("front", 64, 64), Camera("wrist", 64, 64)), STATE, ACTION, keys={"dialect": {"image": "front"}})
    return PolicyContract({"arm": robot}, **changes)


def test_json_round_trip_keeps_contract_and_hash(tmp_path):
    original = contract(chunk=6)
    original.save(tmp_path)
    assert PolicyContract.load(tmp_path) == original and PolicyContract.load(tmp_path / "contract.json").hash == original.hash


def test_hash_is_over_what_changes_behaviour():
    original = contract()
    renamed = dataclasses.replace(original.embodiment(), keys={})
    assert contract(title="another").hash == original.hash == PolicyContract({"arm": renamed}).hash
    higher = dataclasses.replace(ACTION, high=(0.2, 1.0))
    moved = PolicyContract({"arm": dataclasses.replace(original.embodiment(), action=higher)})
    assert len({c.hash for c in (original, moved, contract(chunk=8), contract(bins=128), contract(plan=()))}) == 5


def test_a_contract_of_schema_1_loads_and_keeps_its_hash():
    old = contract(chunk=6).to_dict()
    for name in ("codec_args", "tokens", "chat", "block"):
        del old[name]
    old["schema"] = 1
    # The hash that schema 1 had.
    assert PolicyContract.from_dict(old).hash == "c3a23ecd1dfa506905433a7309830a26c97d275446c96a23de14ee87a4a7137e"
    assert contract(chunk=6).hash == PolicyContract.from_dict(old).hash
    newer = [contract(tokens="append"), contract(codec_args={"lowest": 0}), contract(chat=True), contract(codec="quantile")]
    newer += [contract(block="causal"), contract(block="bidirectional")]
    assert len({c.hash for c in (contract(), *newer)}) == 7


def test_a_contract_from_before_blocks_loads_and_keeps_its_hash():
    old = contract(tokens="append").to_dict()
    del old["block"]
    assert PolicyContract.from_dict(old).hash == contract(tokens="append").hash
    # The hash that schema 2 had.
    assert contract(tokens="append").hash == "dd99835841e6d54ab6730515b59f2f2803ee4d85231e3a1a4b19d22e99cce0bd"
    with pytest.raises(UserError, match="none, causal, bidirectional"):
        contract(block="all")


def test_a_contract_from_before_statistics_keeps_the_mode_and_its_hash():
    for changes, schema in (({}, 1), ({"tokens": "append"}, 2)):
        old = contract(**changes).to_dict() | {"schema": schema}
        del old["decode"]
        read = PolicyContract.from_dict(old)
        assert read.decode == "mode" and read.hash == contract(**changes).hash
        assert contract(decode="median", **changes).hash not in (read.hash, contract(decode="local-mean", **changes).hash)
    with pytest.raises(UserError, match="mode, median, local-mean"):
        contract(decode="mean")


def test_a_contract_from_before_binary_dimensions_keeps_its_hash_and_its_values():
    for changes in ({}, {"decode": "median"}, {"tokens": "append"}):
        old = contract(**changes).to_dict() | {"schema": 3}
        for space in ("state", "action"):
            del old["embodiments"]["arm"][space]["binary"]
        read = PolicyContract.from_dict(old)
        assert read == contract(**changes) and read.hash == contract(**changes).hash
        assert read.embodiment().action.binary == (None, None)
    # The hash that schema 3 had.
    assert contract(decode="median").hash == "47e54245e506f84fdfa391611a514ceae8ee2d4b7b8858bbd40b768f9944a40d"
    action = dataclasses.replace(ACTION, constant=(None, None), binary=(None, (0.0, 1.0)))
    robot = dataclasses.replace(contract().embodiment(), action=action)
    free = dataclasses.replace(robot, action=dataclasses.replace(action, binary=()))
    binary = PolicyContract({"arm": robot})
    assert PolicyContract.from_dict(json.loads(binary.to_json())) == binary
    assert binary.hash not in (PolicyContract({"arm": free}).hash, contract().hash)
    settled = action.settled(np.array([[0.03, 0.4], [7.0, 0.6], [-0.02, -3.0]]))
    assert settled.tolist() == [[0.03, 0.0], [7.0, 1.0], [-0.02, 0.0]]


def test_a_state_far_outside_is_described():
    names, units = ("x", "lift", "grip"), ("m", "m", "")
    space = Space(names, units, (-1.0, 0.0, 0.0), (1.0, 0.5, 1.0), statistics={"min": (-0.5, 0.1, 0.0), "max": (0.5, 1.5, 1.0)})
    # The range covers the limits and the data; half of it may be exceeded.
    assert space.far_outside(np.array([2.0, -0.75, 1.5])) == []
    assert space.far_outside(np.array([2.01, 2.26, -9.0])) == [
        "x (m) is 2.01, far outside -1 to 1",
        "lift (m) is 2.26, far outside 0 to 1.5",
        "grip is -9, far outside 0 to 1",
    ]


def test_a_dimension_with_two_values_is_recognised_by_its_statistics():
    rng = np.random.default_rng(0)
    grip = rng.choice([-1.0, 1.0], 500, p=[0.9, 0.1])
    nearly = grip.copy()
    nearly[:20] = rng.uniform(-1, 1, 20)
    columns = {"even": rng.uniform(-1, 1, 500), "grip": grip, "nearly": nearly, "still": np.full(500, 0.5)}
    names = tuple(columns)
    space = Space(names, ("",) * 4, (-1.0,) * 4, (1.0,) * 4)
    assert not space.two_valued().any()
    filled = space_with_statistics(space, np.stack(list(columns.values()), 1))
    assert filled.two_valued().tolist() == [False, True, False, False]
    assert filled.binary == (None,) * 4 and filled.with_binary().binary == (None, (-1.0, 1.0), None, None)


def test_plan_of_unknown_parts_is_refused():
    with pytest.raises(UserError, match="where, reach"):
        contract(plan=("why",))
    assert contract(plan=("where", "reach")) == PolicyContract.from_dict(contract(plan=("where", "reach")).to_dict())


def test_hash_does_not_depend_on_the_order_of_json_keys():
    original = contract()
    shuffled = dict(reversed(list(json.loads(original.to_json()).items())))
    assert PolicyContract.from_dict(shuffled).hash == original.hash


def test_mismatch_names_fields_and_both_values():
    original, other = contract(), contract(chunk=8, title="x")
    original.require(contract(title="x"), "the checkpoint", "the data")
    with pytest.raises(ContractMismatch, match=r"the checkpoint .*the data .*chunk: 4 against 8") as caught:
        original.require(other, "the checkpoint", "the data")
    assert original.hash[:12] in str(caught.value) and other.hash[:12] in str(caught.value) and "title" not in str(caught.value)


def test_check_names_the_dimension_that_is_not_finite():
    with pytest.raises(ContractMismatch, match="NaN or infinity in y"):
        STATE.check(np.array([[0.0, np.nan]]), "state")
    with pytest.raises(ContractMismatch, match="expected 2 values: x, y"):
        STATE.check(np.zeros(3), "state")


@pytest.mark.parametrize(
    "change", [{"schema": 99}, {"schema": None}, {"nonsense": 1}, {"embodiments": {"arm": {"cameras": []}}}, {"embodiments": 3}]
)
def test_an_invalid_contract_is_refused_with_its_file(change):
    with pytest.raises(UserError, match="here.json"):
        PolicyContract.from_dict({**contract().to_dict(), **change}, "here.json")


def test_missing_or_broken_file(tmp_path):
    with pytest.raises(UserError, match="no contract found"):
        PolicyContract.load(tmp_path)
    (tmp_path / "contract.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        PolicyContract.load(tmp_path)


@pytest.mark.parametrize("limits", [((1.0,), (1.0,)), ((0.0,), (np.inf,)), ((0.0, 0.0), (1.0,))])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(UserError):
        Space(("x",), ("m",), *limits)


def test_unknown_embodiment_lists_the_known_ones():
    with pytest.raises(ContractMismatch, match="arm"):
        contract().embodiment("leg")
    assert contract().embodiment() is contract().embodiment("arm") or contract().embodiment() == contract().embodiment("arm")


def test_instructions_are_normalised():
    assert contract().instruction("  Pick UP the\n cube. ") == "pick up the cube"
    assert contract(normalise="none").instruction(" A ") == " A "
    assert contract(normalise="lower").instruction(" A. ") == " a. "


def test_a_contract_from_before_plans_had_parts_is_migrated():
    for before, after in (("where", ("where",)), ("none", ())):
        data = {k: v for k, v in contract().to_dict().items() if k not in ("modes", "history")} | {"plan": before}
        migrated = PolicyContract.from_dict(data)
        assert migrated.plan == after and migrated.history == 1 and migrated.modes == (("think",) if after else ("act",))
