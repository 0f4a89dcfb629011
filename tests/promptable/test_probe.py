import pytest
import torch

from vla.errors import UserError
from vla.promptable.probe import classify, pooled, regress
from vla.promptable.representation import States


def split(x, y):
    return x[:300], y[:300], x[300:], y[300:]


def test_linear_relations_are_found_and_noise_is_not():
    torch.manual_seed(0)
    features = torch.randn(600, 12)
    labels = (features[:, 0] - 0.5 * features[:, 3] > 0).long() + 2 * (features[:, 5] > 1).long()
    assert classify(*split(features, labels)).score > 0.85
    noise = classify(*split(torch.randn(600, 12), labels))
    assert noise.score < noise.chance + 0.07 and noise.n == 300
    values = torch.stack([features[:, 1] + 3, features[:, 2] - features[:, 4]], 1)
    assert regress(*split(features, values)).score > 0.99
    assert regress(*split(torch.randn(600, 12), values)).score < 0.1


def test_many_features_of_few_observations_do_not_break_it():
    torch.manual_seed(0)
    features = torch.randn(600, 500)
    features[:, 7] = 2.0  # never varies
    result = regress(*split(features, features[:, :1] * 2))
    assert result.score > 0.1 and classify(*split(features, (features[:, 0] > 0).long())).score > 0.6


def test_pooling_leaves_padding_out_and_keeps_layers_apart():
    tokens = torch.arange(2 * 5 * 2 * 3, dtype=torch.float32).reshape(2, 10, 3)  # five tokens of two layers
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[0, 2:4] = True
    states = States(tokens, padding, torch.zeros(2, 2, dtype=torch.long))
    apart = tokens.reshape(2, 5, 2, 3)
    result = pooled(states, "all", 2)
    assert torch.allclose(result[0, :3], apart[0, [0, 2, 3, 4], 0].mean(0)) and torch.allclose(
        result[1, 3:], apart[1, :, 1].mean(0)
    )
    assert torch.allclose(pooled(states, "written", 2)[1], apart[1, 3:].mean(0).flatten())
    with pytest.raises(UserError, match="one of all, written"):
        pooled(states, "last", 2)
    with pytest.raises(UserError, match="of 0 written"):
        pooled(States(tokens, padding, torch.zeros(2, 0)), "written", 2)
