"""What a record says of its policy."""

import pytest

from vla.evaluation.facts import facts_of


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("ws://robot:8000", "openpi"),
        ("wss://robot", "openpi"),
        ("http://robot:8000", "http"),
        ("https://robot", "http"),
        ("openvla+http://robot", "openvla"),
        ("openvla+https://robot", "openvla"),
        ("runs/own/export", "none, in this process"),
    ],
)
def test_the_protocol_is_that_of_the_address(seeing, name, protocol):
    assert facts_of(name, seeing())["protocol"] == protocol


def test_rows_of_a_call_and_executed_actions(seeing):
    policy = seeing()
    facts = facts_of("own", policy)
    assert facts["batch"] == [] and facts["execute"] == policy.contract.execute and facts["contract"] == policy.contract.hash
    policy.batch = 4
    assert facts_of("own", policy, execute=1)["batch"] == [4] and facts_of("own", policy, execute=1)["execute"] == 1
    assert facts_of("expert", None)["contract"] is None and facts_of("expert", None)["execute"] is None
