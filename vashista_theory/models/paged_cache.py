# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportIncompatibleMethodOverride=false
"""A transformers cache whose keys and values live in JAX, in pages; torch never holds them."""

from typing import Any

from transformers.cache_utils import DynamicCache

from vashista_theory.attention import PagedKV, Policy, SummarySpec
from vashista_theory.models import refusals, settings
from vashista_theory.models._switch import decoder_config
from vashista_theory.models.kept_layer import keep, own_layers
from vashista_theory.models.paged_layer import PagedLayer


class PagedCache(DynamicCache):
    """The cache of ``attn_implementation="vashista"``, for those who want one of their own.

    After `vashista_theory.models.register`, transformers makes these by itself wherever it would
    make a `DynamicCache` for such a model. Made by hand, one can pin its policy, reserve room, and
    be kept between calls.

    Each layer of full attention has one `PagedKV`, made when the first tokens arrive. Padding is
    not stored there: each sequence has its own length. Layers with a window, chunks or a state are
    those that transformers would make.

    Args:
        config: Of the model.
        policy: What to read; None follows `register` and `decoding`, step by step.
        spec: Summaries to keep; None for those of `register`.
        page_size: Tokens a page; None for that of `register`.
        room: Tokens to reserve for each sequence. Growing later copies the pages.

    Raises:
        UnsupportedModelError: for a model that cannot be decoded over pages.
        ValueError: for a policy or a specification that is none, or sizes that are not positive.
    """

    def __init__(
        self,
        config: Any,
        *,
        policy: Policy | None = None,
        spec: SummarySpec | None = None,
        page_size: int | None = None,
        room: int = 0,
    ) -> None:
        super().__init__()
        become_paged(self, config, policy=policy, spec=spec, page_size=page_size, room=room)

    @property
    def pages(self) -> list[PagedKV | None]:
        """The pages of each layer; None before the first token, and for a layer without pages."""
        layers: list[Any] = list(self.layers)
        return [getattr(layer, "pages", None) for layer in layers]


def become_paged(
    cache: Any,
    config: Any,
    *,
    policy: Policy | None = None,
    spec: SummarySpec | None = None,
    page_size: int | None = None,
    room: int = 0,
) -> None:
    """Give an empty cache pages for each layer of full attention, and keep the others."""
    if policy is not None:
        settings.check_policy(policy)
    settings.check_cache(spec=spec, page_size=page_size, room=room)
    decoder = decoder_config(config)
    refusals.check_config(decoder)
    layers: list[Any] = []
    kept = own_layers(decoder) if refusals.kept_layers(decoder) else None
    for index in range(refusals.layers_of(decoder)):
        if kept is not None and index in refusals.kept_layers(decoder):
            layers.append(keep(kept[index], index, layers))
            continue
        layer = PagedLayer(
            index,
            decoder,
            policy=policy,
            spec=spec,
            page_size=page_size,
            room=room,
            siblings=layers,
        )
        layers.append(layer)
    cache.layers = layers
    cache.layer_class_to_replicate = None
