import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.systems.pr2l.probing_page import principal


def test_principal_components_are_the_directions_in_which_vectors_differ_most():
    torch.manual_seed(0)
    x = torch.randn(200, 1) * torch.tensor([[3.0, 4.0, 0.0]]) + torch.randn(200, 1) * torch.tensor([[0.0, 0.0, 2.0]]) + 7
    points, shares = principal(x)
    assert points.shape == (200, 2) and shares[0] > shares[1] and sum(shares) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(points.square().sum(1), (x - x.mean(0)).square().sum(1), rtol=1e-3, atol=1e-2)
