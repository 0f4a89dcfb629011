"""Weights as 8-bit integers."""

import copy

import pytest
import torch
from torch import nn

from vla.models.decoding.decode import write
from vla.models.families.hub_session import HubSession
from vla.models.int8 import FEW, Int8Linear, to_int8

ACTIONS = list(range(300, 340))


@pytest.mark.parametrize("bias", [True, False])
def test_each_weight_is_off_by_half_a_step_of_its_row(bias):
    torch.manual_seed(0)
    linear = nn.Linear(40, 24, bias=bias)
    with torch.no_grad():
        linear.weight[3] = 0
        linear.weight[4] *= 1000
    quantised = Int8Linear(40, 24, bias).quantise(linear)
    restored = quantised.weight.float() * quantised.scale[:, None]
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert (abs(restored - linear.weight) <= step / 2 * 1.001).all() and (restored[3] == 0).all()
    assert quantised.weight.dtype == torch.int8 and not any(p.requires_grad for p in quantised.parameters())
    # Few tokens and many use different kernels with the same result.
    x = torch.randn(2, FEW, 40)
    exact = nn.functional.linear(x, restored, linear.bias)
    assert torch.allclose(quantised(x), exact, rtol=1e-4, atol=1e-3)
    assert torch.allclose(quantised(x[:1, :5]), exact[:1, :5], rtol=1e-4, atol=1e-3)
    half = quantised(x[0, :1].bfloat16())
    assert half.dtype == torch.bfloat16 and torch.allclose(
        half.float(), exact[0, :1], rtol=0.02, atol=0.05 * exact.abs().max().item()
    )


@pytest.mark.parametrize("name", ["paligemma", "qwen2.5-vl", "smolvlm"])
def test_a_quantised_model_writes_nearly_the_same(hub, name):
    model = hub.model(name)
    quantised = copy.deepcopy(model)
    to_int8(quantised.get_decoder())
    assert not any(type(m) is nn.Linear for m in quantised.get_decoder().modules())
    exact, rough = (write(HubSession(m, hub.prompts(name)), [ACTIONS] * 3, valid_mass=True) for m in (model, quantised))
    # The first token depends on the prompt alone.
    assert abs(exact.logprobs[:, 0] - rough.logprobs[:, 0]).max() < 0.3 and not torch.equal(exact.logprobs, rough.logprobs)
