# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""Causal attention among the new tokens of a prompt in pieces, ready to be merged with the past."""

from typing import TypeAlias

import torch
from jaxtyping import Float

Part: TypeAlias = tuple[Float[torch.Tensor, "B T H D"], Float[torch.Tensor, "B T H"]]
"""Output over some of the keys, and the log of their softmax sum in nats."""


def attend_chunk(
    query: Float[torch.Tensor, "B H T D"],
    key: Float[torch.Tensor, "B Hkv T D"],
    value: Float[torch.Tensor, "B Hkv T D"],
    mask: torch.Tensor | None,
    scale: float,
) -> Part:
    """Each new token attends to the new tokens up to itself that are not padding."""
    batch, heads, tokens, d = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, tokens, d)
    scores = torch.einsum("bkgtd,bksd->bkgts", grouped, key).float() * scale
    if mask is None:
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    else:
        seen = mask[:, :, None, :, -tokens:]
    scores = scores.masked_fill(~seen, -torch.inf)
    log_mass = torch.logsumexp(scores, dim=-1)
    top = torch.where(log_mass.isfinite(), log_mass, torch.zeros_like(log_mass))
    weights = torch.exp(scores - top[..., None])
    output = torch.einsum("bkgts,bksd->bkgtd", weights.to(value.dtype), value)
    output = output.reshape(batch, heads, tokens, d).transpose(1, 2)
    return output, log_mass.reshape(batch, heads, tokens).transpose(1, 2)


def merge(first: Part, second: Part) -> Float[torch.Tensor, "B T H D"]:
    """Attention over the keys of both parts; zero where neither has any."""
    masses = torch.stack([first[1].float(), second[1].float()])
    top = masses.amax(dim=0)
    shares = torch.exp(masses - torch.where(top.isfinite(), top, torch.zeros_like(top)))
    shares = shares / shares.sum(dim=0).clamp_min(torch.finfo(shares.dtype).tiny)
    left, right = shares.to(first[0].dtype)[..., None]
    return first[0] * left + second[0] * right
