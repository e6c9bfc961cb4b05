"""Which policy decoding uses, and what it reported: set for the process, or for a block of code."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vashista_theory._checks import is_integer
from vashista_theory._words import count
from vashista_theory.attention.bounds.summaries import SummarySpec
from vashista_theory.attention.info import DecodeInfo
from vashista_theory.attention.policy import Policy


@dataclasses.dataclass(frozen=True)
class Settings:
    """How caches are built and read.

    Attributes:
        policy: What each decode step reads.
        spec: Summaries that new caches keep; the policy's has to be among them.
        page_size: Tokens a page of new caches.
    """

    policy: Policy
    spec: SummarySpec
    page_size: int


def check_cache(*, spec: object = None, page_size: object = None, room: object = 0) -> None:
    """Refuse what no cache can be built from; None stands for a default.

    Raises:
        ValueError: With the name, the value and what was expected.
    """
    if spec is not None and not isinstance(spec, SummarySpec):
        raise ValueError(
            f"spec is {spec!r}; a vashista_theory.attention.SummarySpec is expected, such as "
            "SummarySpec(ball=False, sketch_bits=2)."
        )
    for name, value, least in (("page_size", page_size, 1), ("room", room, 0)):
        if value is not None and not is_integer(value, least=least):
            raise ValueError(f"{name} is {value!r}; an integer of at least {least} is expected.")


class DecodeLog:
    """What decode steps reported, by layer, in order.

    `print` it for a summary. Where several models decode in one block, an assistant of another for
    one, ask for the log `of` each.

    `tokens_read` and the like are methods, which stack what all layers reported into one array.
    `by_layer` and `pages_held` are dictionaries, without parentheses: what was logged, unstacked.

    Attributes:
        by_layer: `DecodeInfo` of each step, by the model's layer number:
            ``log.by_layer[3][-1].gap`` is of the last step of layer 3.
        pages_held: Pages that each sequence had at each step, likewise.
    """

    def __init__(self) -> None:
        self.by_layer: dict[int, list[DecodeInfo]] = {}
        self.pages_held: dict[int, list[Int[np.ndarray, " B"]]] = {}
        self._models: list[tuple[Any, DecodeLog]] = []

    def add(
        self,
        layer: int,
        info: DecodeInfo,
        pages_held: Int[np.ndarray, " B"],
        config: Any = None,
    ) -> None:
        """Note one step of one layer, of the decoder with this configuration."""
        self.by_layer.setdefault(layer, []).append(info)
        self.pages_held.setdefault(layer, []).append(pages_held)
        if config is not None:
            own = self._of(config)
            if own is None:
                own = DecodeLog()
                self._models.append((config, own))
            own.add(layer, info, pages_held)

    def of(self, model: Any) -> "DecodeLog":
        """The steps of one model, where several decoded in the block.

        Raises:
            ValueError: if it took no step there.
        """
        from vashista_theory.models._switch import decoder_config

        log = self._of(decoder_config(model.config))
        if log is None:
            raise ValueError(f"{type(model).__name__} took no decode step in this block.")
        return log

    def _of(self, config: Any) -> "DecodeLog | None":
        return next((log for known, log in self._models if known is config), None)

    def __repr__(self) -> str:
        if len(self._models) > 1:
            names = count(len(self._models), "model")
            return f"DecodeLog of {names} in one block: print `log.of(model)` for each"
        if self.steps == 0:
            return "DecodeLog without a decode step (the first new token comes of the prompt)"
        layers = count(len(self.by_layer), "layer")
        said = f"DecodeLog of {count(self.steps, 'step')} in {layers}"
        try:
            read, error = self.tokens_read(), self.error_estimate()
            dropped = self.dropped_mass_bound()
        except ValueError:
            return f"{said}, of batches of several sizes: `by_layer` has them one by one"
        _, _, sequences, heads = read.shape
        said += f", {count(sequences, 'sequence')}, {count(heads, 'head')}: "
        said += f"{read.mean():,.0f} tokens read by a head on average"
        # Only what is known of every read: of those of a short sequence both always are.
        if not np.isnan(error).any():
            said += f", estimated error {error.mean():.3g} in units of the values"
        if not np.isnan(dropped).any():
            said += f", dropped mass proved to be at most {dropped.max():.3g}"
        return said

    @property
    def steps(self) -> int:
        """Steps that every layer has finished."""
        return min((len(infos) for infos in self.by_layer.values()), default=0)

    def pages_read(self) -> Int[np.ndarray, "steps L B H"]:
        """Pages read by step, layer (ascending), sequence and query head.

        Raises:
            ValueError: if nothing was logged, or batches of several sizes, or several models.
        """
        return self._stacked("pages_read")

    def share_read(self) -> Float[np.ndarray, "steps L B H"]:
        """Pages read as a share of the pages that the sequence had at that step."""
        held = [
            [self.pages_held[layer][step] for layer in sorted(self.by_layer)]
            for step in range(self.steps)
        ]
        return self.pages_read() / np.maximum(np.asarray(held)[..., None], 1)

    def tokens_read(self) -> Int[np.ndarray, "steps L B H"]:
        """Tokens behind each output; of drawn tokens as many as were drawn."""
        return self._stacked("tokens_read")

    def error_estimate(self) -> Float[np.ndarray, "steps L B H"]:
        """Estimated error of each output in units of the values (T8).

        0 where everything was read, NaN where something was left out and nothing drawn.
        """
        return self._stacked("error_estimate")

    def dropped_mass_bound(self) -> Float[np.ndarray, "steps L B H"]:
        """Proven bound on the softmax mass left unread; 0 where everything was read.

        NaN where no proof was asked for.
        """
        return self._stacked("dropped_mass_bound")

    def _stacked(self, name: str) -> np.ndarray:
        if len(self._models) > 1:
            raise ValueError(
                f"{len(self._models)} models decoded in this block: ask `log.of(model)` for the "
                "steps of each."
            )
        if self.steps == 0:
            raise ValueError(
                "no decode step was logged. The first new token comes of the prompt, which is read "
                "densely: generate at least 2 (max_new_tokens=2 or more), with "
                "attn_implementation='vashista' and a cache, in the thread of `with "
                "vt.models.decoding() as log:`."
            )
        rows = [
            [
                np.asarray(getattr(self.by_layer[layer][step], name))
                for layer in sorted(self.by_layer)
            ]
            for step in range(self.steps)
        ]
        if len({array.shape for row in rows for array in row}) > 1:
            raise ValueError("batches of several sizes were logged; use one `decoding()` for each.")
        return np.asarray(rows)


@dataclasses.dataclass(frozen=True)
class _Override:
    policy: Policy | None
    log: DecodeLog


_default = Settings(Policy.sampled(), SummarySpec(), 16)
_override: contextvars.ContextVar[_Override | None] = contextvars.ContextVar(
    "vashista_decoding", default=None
)


def set_default(settings: Settings) -> None:
    """Set what holds outside any `decoding` block."""
    global _default  # noqa: PLW0603
    _default = settings


def current() -> Settings:
    """What holds here and now."""
    override = _override.get()
    if override is None or override.policy is None:
        return _default
    return dataclasses.replace(_default, policy=override.policy)


def current_log() -> DecodeLog | None:
    """The log of the innermost `decoding` block."""
    override = _override.get()
    return None if override is None else override.log


@contextlib.contextmanager
def decoding(policy: Policy | None = None) -> Generator[DecodeLog]:
    """Decode with a policy, and collect what each layer reports, within a ``with`` block.

    ::

        with vt.models.decoding(vt.attention.Policy.sampled(512)) as log:
            model.generate(**inputs)
        print(log.tokens_read().mean(), log.error_estimate().mean())

    The policy is looked up at every decode step, so one prefilled cache can be read with several.
    A `PagedCache` that was given a policy of its own keeps it. The block is around what its own
    thread runs; to a thread that is started inside (as a streamer's is), hand it on::

        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(model.generate,), kwargs=inputs).start()

    Args:
        policy: What to read; None leaves what `register` or an outer block set.

    Raises:
        ValueError: if the policy is not a `Policy`.
    """
    if policy is not None:
        check_policy(policy)
    outer = _override.get()
    inherited = policy if policy is not None or outer is None else outer.policy
    log = DecodeLog()
    token = _override.set(_Override(inherited, log))
    try:
        yield log
    finally:
        _override.reset(token)


def check_policy(policy: object) -> None:
    """Raise unless this is a policy."""
    if not isinstance(policy, Policy):
        raise ValueError(
            f"`policy` is {policy!r}; a vashista_theory.attention.Policy is expected, such as "
            "Policy.certified(0.05)."
        )
