import pytest
import torch

from vla.models.attention import additive, attend, positions, visible
from vla.models.inputs import BLOCK, PREFIX


def test_prefix_is_bidirectional_and_answers_are_causal():
    attention = torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    prefix = torch.tensor([[1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    expected = torch.tensor(
        [
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 1],  # padding sees itself: no empty row
        ],
        dtype=torch.bool,
    )
    assert torch.equal(visible(attention, prefix)[0, 0], expected)
    assert torch.equal(visible(attention, prefix, first=4)[0, 0], expected[4:])


def test_a_block_attends_to_earlier_tokens_and_itself():
    group = torch.tensor([[PREFIX, PREFIX, 0, BLOCK, BLOCK, 0]])
    expected = torch.ones(6, 6).tril()
    expected[0, 1] = expected[3, 4] = 1
    assert torch.equal(visible(torch.ones(1, 6, dtype=torch.bool), group)[0, 0], expected.bool())


def test_branches_attend_to_the_trunk_and_themselves():
    attention = torch.tensor([[1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    branch = torch.tensor([[0, 0, 1, 1, 2, 2, 0]])
    prefix = torch.tensor([[1, 1, 1, 0, 1, 0, 0]], dtype=torch.bool)
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 0, 0, 1, 0, 0],
            [1, 1, 0, 0, 1, 1, 0],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(visible(attention, prefix, branch)[0, 0, :6], expected)
    assert positions(attention, branch)[0, :6].tolist() == [0, 1, 2, 3, 2, 3]


def test_rows_of_padding_give_finite_numbers():
    mask = visible(torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool))
    assert mask.any(-1).all()
    out, _ = attend(torch.nn.Identity().eval(), *torch.randn(3, 2, 2, 5, 8), additive(mask, torch.float32))
    assert out.isfinite().all()


@pytest.mark.parametrize("keys", [4, 2])
def test_the_bf16_product_path_agrees_with_the_fused_kernel(keys):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 9, 16), torch.randn(2, keys, 9, 16), torch.randn(2, keys, 9, 16)
    mask = visible(torch.ones(2, 9, dtype=torch.bool), torch.arange(9).expand(2, 9) < 4)
    module = torch.nn.Identity().eval()
    exact, _ = attend(module, query, key, value, additive(mask, torch.float32))
    rough, _ = attend(module, query.bfloat16(), key.bfloat16(), value.bfloat16(), additive(mask, torch.bfloat16))
    assert rough.dtype == torch.bfloat16 and torch.allclose(exact, rough.float(), atol=0.03)
