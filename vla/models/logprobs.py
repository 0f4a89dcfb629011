"""Log-probabilities of tokens, as the supervised loss, decoding, scoring and policy gradients all use them."""

from __future__ import annotations

import torch


def token_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Returns log softmax(logits)[ids] in float32: logits [..., V], ids [...] -> [...].

    With gradients it is computed as logit minus log-sum-exp, which does not keep a table of log-probabilities for the backward
    pass.
    """
    logits = logits.float()
    if not logits.requires_grad:
        return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sums each row's values where the mask is True: [..., L] -> [...], e.g. to the log-probability of an answer."""
    return values.masked_fill(~mask, 0.0).sum(-1)


def scored(labels: torch.Tensor) -> torch.Tensor:
    """Returns the positions whose logits a loss needs: [B, L] bool, True at p if token p + 1 has a label other than -100."""
    needed = torch.zeros_like(labels, dtype=torch.bool)
    needed[:, :-1] = labels[:, 1:] != -100
    return needed


def allowed_mass(logits: torch.Tensor, ids: torch.Tensor, legal: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the probability mass on `ids` [K], or on the `legal` [..., K] ones among them: logits [..., V] -> [...]."""
    logits = logits.float()
    chosen = logits[..., ids]
    if legal is not None:
        chosen = chosen.masked_fill(~legal, -torch.inf)
    return (chosen.logsumexp(-1) - logits.logsumexp(-1)).exp()
