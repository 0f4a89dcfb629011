"""The optimizer's state as checkpoints hold it."""

import copy

import torch
from torch import nn

from vla.training.optimizer import name_states


def test_state_goes_by_name_and_comes_back():
    """Groups number parameters in another order than the model, which is why FSDP2 once read a bias's moments for a matrix."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": [p for p in model.parameters() if p.ndim == n], "weight_decay": 0.1 * n} for n in (1, 2)]
    optimizer = torch.optim.AdamW(groups)
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()

    state = name_states(optimizer.state_dict(), optimizer, model)
    assert {name: moments["exp_avg"].shape for name, moments in state["state"].items()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }
    assert [group["params"] for group in state["param_groups"]] == [["0.bias", "1.bias"], ["0.weight", "1.weight"]]

    other = torch.optim.AdamW(copy.deepcopy(groups))
    other.load_state_dict(state)
    for mine, theirs in zip(optimizer.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert name_states({}, optimizer, model) == {}  # a rank that saves nothing
