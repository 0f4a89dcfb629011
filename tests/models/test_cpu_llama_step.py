"""The lean decoding step of Llama and Qwen2 on a CPU: the modules' own answers, and only where it computes what they do."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from vla.models.decoding.allowed import Block, Ordinal
from vla.models.decoding.cpu_llama_step import CpuLlamaStep
from vla.models.decoding.decode import fast_steps, write
from vla.models.decoding.kv_cache import ROOM
from vla.models.families.hub_session import HubSession

ACTIONS = list(range(300, 340))
MEDIAN = Ordinal(torch.tensor(ACTIONS[::-1]), "median")
ALLOWED = [ACTIONS, MEDIAN, [345], ACTIONS, [346], [347], MEDIAN]
BLOCKS = [(), (Block.of([ACTIONS] * 2 + [MEDIAN] * 3, 7, True),), (Block.of([ACTIONS] * 5, 7, False),)]
SIZE = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def language(kind=LlamaConfig, **changes):
    """A frozen language model whose norms and biases are not the trivial ones of a fresh model."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**SIZE | changes)).eval().requires_grad_(False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) / 4)
    return model


def assert_same(one, other):
    assert torch.equal(one.ids, other.ids) and torch.allclose(one.logprobs, other.logprobs, atol=1e-4)


def prompts(lengths=(12, 20, 17)):
    generator = torch.Generator().manual_seed(1)
    columns = torch.arange(max(lengths))
    attention = (columns >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(1, 300, attention.shape, generator=generator) * attention, "attention_mask": attention}


@pytest.mark.parametrize("block", BLOCKS, ids=["tokens", "mutual", "causal"])
@pytest.mark.parametrize("lengths", [(12, 20, 17), (20,)], ids=["padded", "one"])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_answers_are_those_of_the_modules(kind, lengths, block):
    model, options = language(kind), {"block": block[0]} if block else {}
    steps = fast_steps(model)
    assert isinstance(steps, CpuLlamaStep)
    for more in ({}, {"temperature": 1.0, "samples": 2}):
        one, other = (
            write(HubSession(model, prompts(lengths), s), ALLOWED, generator=torch.Generator().manual_seed(0), **options, **more)
            for s in (steps, None)
        )
        assert_same(one, other)


def test_an_answer_may_outgrow_its_room():
    model = language()
    one, other = (write(HubSession(model, prompts(), s), [ACTIONS] * (ROOM + 20)) for s in (fast_steps(model), None))
    assert_same(one, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"kind": Qwen2Config, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_models_that_compute_something_else_keep_their_modules(changes):
    assert fast_steps(language(**changes)) is None


def test_so_do_models_that_learn_have_adapters_or_another_type():
    model = language()
    decoder = model.get_decoder()
    assert CpuLlamaStep.fits(decoder)
    decoder.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert not CpuLlamaStep.fits(decoder)
    decoder.requires_grad_(False).layers[1].self_attn.v_proj = nn.Sequential(decoder.layers[1].self_attn.v_proj)
    assert not CpuLlamaStep.fits(decoder)
    assert not CpuLlamaStep.fits(language().bfloat16().get_decoder())
    with torch.autocast("cpu", torch.bfloat16):
        assert not CpuLlamaStep.fits(language().get_decoder())
