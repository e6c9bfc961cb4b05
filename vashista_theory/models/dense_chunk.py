# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""Attention among the new tokens of a prompt in pieces, ready to be merged with the past."""

from typing import TypeAlias

import torch
from jaxtyping import Bool, Float

Part: TypeAlias = tuple[Float[torch.Tensor, "B T H D"], Float[torch.Tensor, "B T H"]]
"""Output over some of the keys, and the log of their softmax sum in nats."""


def attend_chunk(
    query: Float[torch.Tensor, "B H T D"],
    key: Float[torch.Tensor, "B Hkv T D"],
    value: Float[torch.Tensor, "B Hkv T D"],
    seen: Bool[torch.Tensor, "_ T T"] | None,
    scale: float,
) -> Part:
    """Each new token attends to the new tokens that its row of `seen` has, or up to itself."""
    batch, heads, tokens, d = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, tokens, d)
    scores = torch.einsum("bkgtd,bksd->bkgts", grouped, key)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    own = torch.ones(1, tokens, tokens, dtype=torch.bool, device=query.device).tril()
    hidden = ~own if seen is None else ~seen
    scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    log_mass = torch.logsumexp(scores, dim=-1)
    top = torch.where(log_mass.isfinite(), log_mass, torch.zeros_like(log_mass))
    weights = torch.exp(scores - top[..., None])
    output = torch.einsum("bkgts,bksd->bkgtd", weights.to(value.dtype), value)
    output = output.reshape(batch, heads, tokens, d).transpose(1, 2)
    return output, log_mass.reshape(batch, heads, tokens).transpose(1, 2)


def merge(first: Part, second: Part) -> Float[torch.Tensor, "B T H D"]:
    """Attention over the keys of both parts; zero where neither has any."""
    dtype = torch.promote_types(first[1].dtype, second[1].dtype)
    masses = torch.stack([first[1].to(dtype), second[1].to(dtype)])
    top = masses.amax(dim=0)
    shares = torch.exp(masses - torch.where(top.isfinite(), top, torch.zeros_like(top)))
    shares = shares / shares.sum(dim=0).clamp_min(torch.finfo(shares.dtype).tiny)
    left, right = shares.to(first[0].dtype)[..., None]
    return first[0] * left + second[0] * right
