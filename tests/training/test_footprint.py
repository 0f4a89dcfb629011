"""The memory of a step, found without computing it."""

import pytest
import torch
from torch import nn

from vla.training.footprint import step_peak

ROWS, WIDE = 64, 256
MIB = ROWS * WIDE * 4
"""Bytes of one layer's states."""


class Stack(nn.Module):
    """Layers without biases; each keeps what it was given."""

    def __init__(self, layers, learns=True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDE, WIDE, bias=False).requires_grad_(learns) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def peak(model, x, **more):
    return step_peak(model, lambda m: m(x).sum(), **more)


def test_the_states_of_every_layer_live_until_the_backward_pass():
    """Tanh keeps its result, which is also what the next layer keeps: one tensor per layer. Weights are as large as four."""
    x = torch.randn(ROWS, WIDE)
    few, many = (peak(Stack(layers), x) for layers in (4, 12))
    gradients = 8 * WIDE * WIDE * 4
    assert many - few == pytest.approx(8 * MIB + gradients, rel=0.02)


def test_frozen_layers_keep_nothing():
    x = torch.randn(ROWS, WIDE)
    assert peak(nn.Sequential(Stack(12, learns=False), Stack(1)), x) <= peak(Stack(1), x) + 2 * MIB


def test_no_weight_is_computed_or_changed():
    model = Stack(2)
    before = [p.clone() for p in model.parameters()]
    peak(model, torch.randn(ROWS, WIDE))
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(model.parameters(), before, strict=True))


def test_half_precision_halves_it_and_shared_gradients_are_counted_once():
    x = torch.randn(ROWS, WIDE)
    whole = peak(Stack(6), x)
    assert peak(Stack(6), x.bfloat16(), dtype=torch.bfloat16) == pytest.approx(whole / 2, rel=0.05)
    assert peak(Stack(6), x, ranks=8) < 0.6 * whole


def test_a_mask_selects_as_many_rows_as_its_content_says():
    x, mask = torch.randn(ROWS, WIDE), torch.zeros(ROWS, dtype=torch.bool)
    mask[:3] = True
    few = step_peak(Stack(1), lambda m: torch.cat([m(x)[mask]] * 20).sum())
    every = step_peak(Stack(1), lambda m: torch.cat([m(x)[torch.ones_like(mask)]] * 20).sum())
    assert every - few > 15 * MIB * (ROWS - 3) / ROWS


def test_the_table_says_what_does_not_fit_and_what_to_change(config, capsys, monkeypatch):
    from vla import cli
    from vla.training import size

    monkeypatch.setattr(size, "LARGE", 0)
    monkeypatch.setattr(size, "capacity", lambda device: 2**20)
    assert cli.main(["fit", "-c", str(config), "--trainer.max_steps=1", "--trainer.val_check_interval=1"]) == 0
    said = capsys.readouterr().err
    table = said[said.index("memory, predicted") : said.index("training ")]
    assert "weights" in table and "with 4 rows of" in table and "does not fit this CPU" in table
    assert "data.batch_size=2 with trainer.accumulate_grad_batches=2: " in table and "model.lora.rank=16: " in table


def test_what_cannot_be_predicted_is_said(config, capsys, monkeypatch):
    from vla import cli
    from vla.training import size

    def fails(*_):
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(size, "LARGE", 0)
    monkeypatch.setattr(size, "predicted", fails)
    assert cli.main(["fit", "-c", str(config), "--trainer.max_steps=1", "--trainer.val_check_interval=1"]) == 0
    assert "memory: not predicted; what this model computes depends on its weights (data-dependent)" in capsys.readouterr().err
