# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportUntypedFunctionDecorator=false
"""The mechanism as an attention implementation of transformers: dense prompts, sparse decoding."""

import functools
from typing import Any, no_type_check

import torch
from transformers.cache_utils import DynamicCache

from vashista_theory.attention import Policy, SummarySpec
from vashista_theory.models import refusals, settings, watching
from vashista_theory.models._switch import NAME, forget, make_known
from vashista_theory.models.bridge import alike
from vashista_theory.models.own_attention import Given, attend_densely, check_own_attention
from vashista_theory.models.paged_cache import become_paged
from vashista_theory.models.paged_layer import PagedLayer

_ORIGINAL = "_vashista_original"
"""Where a constructor that makes pages keeps the one it stands in for."""


def register(
    *, policy: Policy | None = None, spec: SummarySpec | None = None, page_size: int = 16
) -> None:
    """Make ``attn_implementation="vashista"`` known to transformers, and set its defaults.

    ::

        vt.models.register()
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="vashista")
        model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=64)

    Any decoder that uses transformers' attention interface with causal attention over the whole
    context: grouped queries, rotary positions, batches with padding, beam search, any mixture of
    types, `torch.compile` around it. Prompts are read densely (by torch's own attention), also in
    pieces; then each new token reads what the policy asks for. Keys and values live in
    JAX alone (`PagedCache`); torch hands over new ones by DLPack.

    By default each new token reads 256 others on average, whatever the length: drawn by their
    sketch, weighted, and with an estimate of their own error (T8, ``DecodeLog.error_estimate``).
    The same model, batch and seed give the same text.

    The policy, from strongest to weakest: that of a `PagedCache` made by hand, of the innermost
    ``with vt.models.decoding(policy)``, of the latest `register`. Calling it again changes the
    defaults of caches made from then on, and the policy of all that follow it.

    Registering also tells transformers' `DynamicCache` to keep pages when it is made for such a
    model, so that `generate` needs no further argument; for other models it stays what it is. And
    it watches the calls of models that use the implementation: one that computes attention in its
    own way, says so or not, is refused when it is made or before its logits leave.
    `unregister` undoes all this.

    In a model that mixes layers, those of full attention read pages. Layers with a sliding window,
    chunks, convolutions or a linear state keep the cache and the attention that transformers gives
    them. Soft-capped scores and attention sinks beside the keys are part of what is read and what
    is proved.

    Not supported, and refused by name: training, dropout, `output_attentions`, models without a
    layer of full attention, ALiBi and other biases, latent keys, any argument of attention that is
    not known to be harmless, masks of one's own, static, offloaded and quantised caches,
    encoder–decoder models, contexts beyond the model's, and `torch.compile(fullgraph=True)`.
    docs/supported_models.md has every family. Needs transformers 4.56 or newer.

    Args:
        policy: What decode steps read, `Policy.sampled()` by default: 256 tokens, contexts with
            room for up to 1,024 densely. `Policy.certified()` proves how much it drops.
        spec: Summaries that new caches keep; the default keeps all kinds.
        page_size: Tokens a page.

    Raises:
        ImportError: if torch or transformers is missing or too old.
        ValueError: for a policy or a specification that is none, or a page size that is no positive
            integer.
    """
    chosen = Policy.sampled() if policy is None else policy
    settings.check_policy(chosen)
    settings.check_cache(spec=spec, page_size=page_size)
    settings.set_default(
        settings.Settings(chosen, SummarySpec() if spec is None else spec, page_size)
    )
    ensure_registered()


def ensure_registered() -> None:
    """Make the name known, and leave the defaults as they are."""
    make_known(NAME, attention)
    watching.start()
    if not hasattr(DynamicCache.__init__, _ORIGINAL):
        DynamicCache.__init__ = _with_pages(DynamicCache.__init__)


def unregister() -> None:
    """Undo `register`; models that still use the implementation can then not be run."""
    original = getattr(DynamicCache.__init__, _ORIGINAL, None)
    if original is not None:
        DynamicCache.__init__ = original
    watching.stop()
    forget(NAME)
    settings.set_default(settings.Settings(Policy.sampled(), SummarySpec(), 16))


def _with_pages(original: Any) -> Any:
    @no_type_check  # tests wrap what is checked, and torch.compile would not see through that
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807
        original(self, *args, **options)
        # In order: keys and values to begin with, the config, whether to offload them.
        config = options.get("config", args[1] if len(args) > 1 else None)
        if config is not None and _is_ours(config):
            data = options.get("ddp_cache_data", args[0] if args else None)
            offloading = options.get("offloading", args[2] if len(args) > 2 else False)
            _paged(self, config, data, offloading)

    setattr(__init__, _ORIGINAL, original)
    return __init__


@no_type_check
def _is_ours(config: Any) -> bool:
    # Seen by torch.compile for every model: nothing here that it could not follow.
    decoder = config.get_text_config(decoder=True)
    return getattr(decoder, "_attn_implementation", None) == NAME


@torch.compiler.disable
def _paged(cache: Any, config: Any, data: Any, offloading: bool) -> None:
    if offloading:
        raise refusals.unsupported("offloaded caches", "Use the default cache_implementation.")
    if data is not None:
        raise refusals.unsupported(
            "a cache made from keys and values (ddp_cache_data)",
            "Run the prompt through the model instead.",
        )
    become_paged(cache, config)


@torch.compiler.disable
def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query (B, H, T, D), new keys and values (B, Hkv, T, D).

    Returns:
        Output (B, T, H, D), and None for the weights.

    Raises:
        UnsupportedModelError: naming what cannot be done.
    """
    call = watching.current()
    layer = None if call is None else call.take(module, key, value)
    paged = layer if isinstance(layer, PagedLayer) else None
    known = {"softcap", "s_aux"} if paged is not None else {"softcap", "s_aux", "sliding_window"}
    refusals.check_call(module, query, key, value, attention_mask, dropout, options, known=known)
    given = Given(options.get("softcap"), options.get("s_aux"))
    check_own_attention(module, query, key, scaling, given)
    if layer is None and key.shape[2] != query.shape[2]:
        raise refusals.unsupported(
            f"a cache that holds its keys in torch ({key.shape[2]} keys for {query.shape[2]} "
            "queries): a static or quantised one, or one made without the model's config",
            "Leave `past_key_values` and `cache_implementation` out, or pass "
            "vt.models.PagedCache(model.config).",
        )
    if paged is None and attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
        raise refusals.unsupported(
            f"{type(module).__name__}: its mask covers {attention_mask.shape[-1]} keys, and the "
            f"attention interface got {key.shape[2]}; it leaves the cache alone"
        )
    if attention_mask is None and query.shape[2] not in (1, key.shape[2]):
        raise refusals.unsupported(
            f"{type(module).__name__}: {query.shape[2]} queries on {key.shape[2]} keys without a "
            "mask"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    (query, key, value), answer = alike(query, key, value)
    if paged is not None and paged.seen > 0:
        if torch.is_grad_enabled() and query.requires_grad:
            raise refusals.unsupported(
                "gradients through a decode step", "Call the model under `torch.no_grad()`."
            )
        output = paged.attend(query, key, value, attention_mask, scale, given)
        return output.to(answer), None
    output = attend_densely(module, query, key, value, attention_mask, scaling, options, given)
    if paged is not None:
        paged.store(key, value, attention_mask, query)
    return output.to(answer), None
