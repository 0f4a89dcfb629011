import pytest
import torch
from torch import nn

from vla.errors import UserError
from vla.promptable.pooler import MeanPooler, Pooler


@pytest.fixture(params=["attention", "mean"])
def pooler(request):
    torch.manual_seed(0)
    return (Pooler(24, width=32, hidden=32, out=16) if request.param == "attention" else MeanPooler(24, out=16)).eval()


def test_padding_has_no_influence(pooler):
    tokens, padding = torch.randn(3, 10, 24), torch.zeros(3, 10, dtype=torch.bool)
    padding[0, 6:] = True
    with torch.no_grad():
        out = pooler(tokens, padding)
        assert out.shape == (3, 16)
        alone = pooler(tokens[:1, :6], padding[:1, :6])
        other = tokens.clone()
        other[0, 6:] = 7.0
        assert torch.allclose(out[:1], alone, atol=1e-5) and torch.allclose(pooler(other, padding), out, atol=1e-5)


def test_order_has_no_influence_but_every_token_has(pooler):
    tokens, padding = torch.randn(1, 10, 24), torch.zeros(1, 10, dtype=torch.bool)
    out = pooler(tokens, padding)
    assert torch.allclose(pooler(tokens[:, torch.randperm(10)], padding), out, atol=1e-5)
    for position in range(10):
        other = tokens.clone()
        other[0, position] += 1.0
        assert not torch.allclose(pooler(other, padding), out, atol=1e-5)


def test_everything_learns(pooler):
    pooler.train()(torch.randn(2, 5, 24), torch.zeros(2, 5)).square().sum().backward()
    # The decoder attends to a single query: that part's scores have one position only, and no gradient.
    without_gradient = [n for n, p in pooler.named_parameters() if p.grad is None or (not p.grad.any() and "self_attn" not in n)]
    assert without_gradient == []


def test_training_and_evaluation_agree(pooler):
    """PPO compares probabilities before and after a step: the network must have no noise of its own."""
    tokens, padding = torch.randn(4, 9, 24), torch.zeros(4, 9, dtype=torch.bool)
    padding[:, 3:5], padding[0, 7:] = True, True
    with torch.no_grad():
        assert torch.allclose(pooler.train()(tokens, padding), pooler.eval()(tokens, padding), atol=1e-5)


def test_it_computes_what_its_transformer_does():
    torch.manual_seed(0)
    pooler, tokens, padding = (
        Pooler(24, width=32, hidden=32, out=16),
        torch.randn(3, 10, 24),
        torch.zeros(3, 10, dtype=torch.bool),
    )
    padding[0, 6:] = True
    query = pooler.query.expand(3, -1, -1)
    pooler.transformer.encoder.enable_nested_tensor = False
    out = pooler.transformer(pooler.project(tokens), query, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    assert torch.allclose(pooler(tokens, padding), pooler.out(out[:, 0]), atol=1e-5)


@pytest.mark.parametrize("make", [Pooler, MeanPooler])
def test_mix_weighs_layers(make):
    torch.manual_seed(0)
    mixed, plain = make(24, mix=4).eval(), make(24).eval()
    plain.load_state_dict({k: v for k, v in mixed.state_dict().items() if k != "mix.weights"})
    layers = torch.randn(2, 5, 4, 24)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    mixed.mix.weights.data[:] = torch.tensor([0.0, 9.0, 0.0, 0.0])
    weights = mixed.mix.weights.softmax(0)
    by_hand = plain((layers * weights[:, None]).sum(2), padding)
    assert torch.allclose(mixed(layers.flatten(1, 2), padding.repeat_interleave(4, 1)), by_hand, atol=1e-5)
    mixed(layers.flatten(1, 2), padding.repeat_interleave(4, 1)).sum().backward()
    assert mixed.mix.weights.grad.any()


def test_shapes_are_the_papers():
    pooler = Pooler(4096)
    assert pooler.project.out_features == 512 and pooler.out.out_features == 128
    (encoder,), (decoder,) = pooler.transformer.encoder.layers, pooler.transformer.decoder.layers
    assert isinstance(encoder.self_attn, nn.MultiheadAttention) and encoder.self_attn.num_heads == 2
    assert encoder.linear1.out_features == decoder.linear1.out_features == 512
    assert pooler(torch.randn(1, 3, 4096, dtype=torch.float16), torch.zeros(1, 3)).dtype == torch.float32


def test_nothing_but_padding_is_refused(pooler):
    with pytest.raises(UserError, match="only padding"):
        pooler(torch.randn(2, 4, 24), torch.tensor([[True] * 4, [False] * 4]))
