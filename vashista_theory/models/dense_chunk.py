# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""Attention among the new tokens of a prompt in pieces, ready to be merged with the past."""

import functools
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
    cap: float | None = None,
) -> Part:
    """Each new token attends to the new tokens that its row of `seen` has, or up to itself."""
    batch, heads, tokens, d = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, tokens, d)
    scores = torch.einsum("bkgtd,bksd->bkgts", grouped, key)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    own = torch.ones(1, tokens, tokens, dtype=torch.bool, device=query.device).tril()
    hidden = ~own if seen is None else ~seen
    scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    log_mass = torch.logsumexp(scores, dim=-1)
    top = torch.where(log_mass.isfinite(), log_mass, torch.zeros_like(log_mass))
    weights = torch.exp(scores - top[..., None])
    output = torch.einsum("bkgts,bksd->bkgtd", weights.to(value.dtype), value)
    output = output.reshape(batch, heads, tokens, d).transpose(1, 2)
    return output, log_mass.reshape(batch, heads, tokens).transpose(1, 2)


def merge(*parts: Part) -> Float[torch.Tensor, "B T H D"]:
    """Attention over the keys of all parts; zero where none has any."""
    dtype = functools.reduce(torch.promote_types, (mass.dtype for _, mass in parts))
    masses = torch.stack([mass.to(dtype) for _, mass in parts])
    top = masses.amax(dim=0)
    shares = torch.exp(masses - torch.where(top.isfinite(), top, torch.zeros_like(top)))
    shares = shares / shares.sum(dim=0).clamp_min(torch.finfo(shares.dtype).tiny)
    outputs = torch.stack([output for output, _ in parts])
    return (outputs * shares.to(outputs.dtype)[..., None]).sum(dim=0)


def unless_whole(valid: torch.Tensor) -> torch.Tensor | None:
    """Which tokens are not padding, or None if none is: then transformers passes no mask either."""
    return None if bool(valid.all()) else valid
