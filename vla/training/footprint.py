"""How much memory a training step needs, found without computing it.

The step is run once with weights that have shapes but no content (PyTorch's fake tensors), so it needs neither their memory nor
their time; what lives at each moment is added up. What is computed from token ids and images alone, such as positions and masks,
is real: models look at it.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from vla.models.four_bit import quantised


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes that one rank needs at the moment of a training step that needs most.

    Attributes:
        weights: with the buffers.
        gradients: with DDP's buckets, which hold them once more.
        optimizer: its moments.
        activations: everything else: what the backward pass needs, temporary results, gathered blocks of FSDP2.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


class Living(TorchDispatchMode):
    """Adds up the storage of the tensors that are alive. Operations on real tensors alone are computed.

    Attributes:
        now, peak: bytes, without those of the weights.
    """

    def __init__(self, fake: FakeTensorMode, weights: set[int]):
        super().__init__()
        self.fake, self.now, self.peak = fake, 0, 0
        self._known = weights

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        self._note(flat)
        if not any(isinstance(value, FakeTensor) for value in flat):
            out = func(*args, **(kwargs or {}))
        elif func is torch.ops.aten.index.Tensor and (mask := _mask_alone(args[1])) is not None:
            out = self._selected(args[0], mask)
        else:
            with self.fake:
                args, kwargs = tree_unflatten([self.fake.from_tensor(v) if _real(v) else v for v in flat], spec)
                out = func(*args, **(kwargs or {}))
        self._note(tree_flatten(out)[0])
        return out

    def _selected(self, source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What a mask selects: how much that is, only the mask's content says."""
        count = int(mask.count_nonzero())
        # Torch makes the positions first, an int64 for each dimension.
        self.peak = max(self.peak, self.now + 8 * count * mask.dim())
        with self.fake:
            return source.new_empty((count, *source.shape[mask.dim() :]))

    def _note(self, values: list[Any]) -> None:
        for value in values:
            if not isinstance(value, torch.Tensor) or id(storage := value.untyped_storage()) in self._known:
                continue
            self._known.add(id(storage))
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)


def _mask_alone(indices: list[torch.Tensor | None]) -> torch.Tensor | None:
    mask = indices[0] if len(indices) == 1 else None
    return mask if mask is not None and mask.dtype == torch.bool and _real(mask) else None


def without_content(model: nn.Module, fake: FakeTensorMode, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model whose parameters have shapes but no content; its buffers are the model's own.

    Args:
        dtype: of floating-point weights; None: as they are. Layers of 4-bit weights become ordinary ones, since what they keep
            for the backward pass is the same.
    """
    memo: dict[int, Any] = {id(buffer): buffer if dtype is None else _cast(buffer, dtype) for buffer in model.buffers()}
    for parameter in model.parameters():
        data = fake.from_tensor(parameter.detach()) if type(parameter) is nn.Parameter else None
        if data is not None:
            memo[id(parameter)] = nn.Parameter(_cast(data, dtype), requires_grad=parameter.requires_grad)
    for module in model.modules():
        if quantised(module):
            with fake:
                linear = cast(nn.Linear, module)
                plain = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, dtype=torch.bfloat16)
            memo[id(module)] = plain.requires_grad_(False)
    return copy.deepcopy(model, memo)


def _cast(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def step_peak(
    model: nn.Module,
    loss: Callable[[nn.Module], torch.Tensor],
    dtype: torch.dtype | None = None,
    accumulates: bool = False,
    ranks: int = 1,
) -> int:
    """The bytes above those of weights and optimizer at the peak of a step, gradients included: the forward pass, with the
    gradients of the last step there, or the backward pass.

    Args:
        loss: the forward pass: model -> a loss.
        dtype: of floating-point weights; None: as they are.
        accumulates: whether gradients stay for the backward pass, since several batches make a step.
        ranks: number of processes that share the gradients (FSDP2).
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    shadow = without_content(model, fake, dtype)
    weights = {id(value.untyped_storage()) for value in [*shadow.parameters(), *shadow.buffers()]}
    learning = [p for p in shadow.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in learning)
    living = Living(fake, weights)
    if ranks > 1 or accumulates:
        for parameter in learning:
            # Once complete it is handed out, or added to what is there.
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with living:
        value = loss(shadow)
        forward = living.peak + gradients // ranks
        living.peak = living.now
        value.backward()
    kept = gradients // ranks if accumulates or ranks > 1 else 0
    return max(forward, living.peak + kept)
