"""What a decode step may read, what it must prove, and what it does when it cannot."""

from dataclasses import dataclass
from typing import Literal

from vashista_theory._checks import is_integer
from vashista_theory.attention.bounds.summaries import KINDS, PAGES_PER_SUPERPAGE, Summary

Otherwise = Literal["keep", "widen", "dense"]


@dataclass(frozen=True)
class Policy:
    """How `vashista_attention` chooses what to read.

    Presets: `sampled`, `published`, `budget`, `certified`, `dense`.

    Attributes:
        pages: Pages that each kv head reads, sink and recent ones included; with "widen" the
            least number, and None lets the certificate alone decide.
        tolerance: Dropped softmax mass that may not be exceeded, in (0, 1); None asks for no
            proof, and the mass is then estimated, not bounded. With `tokens` the error of the
            output, relative to its length and by the estimate of T8, above which a row reads more.
        summary: What pages are judged by; None reads everything.
        sink: First pages that are always read.
        recent: Last pages that are always read. A page that is not full always is.
        otherwise: What happens, row by row, when `pages` do not suffice to prove `tolerance`:
            "keep" the answer and say so, "widen" a page at a time in order of the bounds until it
            is proved, or read that row "dense".
        superpages: Superpages of 16 pages whose children are judged; the others are judged as one.
            None judges every page. With `tokens`, superpages that are drawn on average, by their
            means, and whose tokens alone can be drawn.
        dense_below: Contexts with room for at most so many tokens are read densely.
        tokens: Tokens that a kv head reads, on average over draws and over the kv heads of a
            sequence, sink and recent ones included: all others are drawn at random by their sketch
            and weighted, so that nothing is left out on average (T8). None reads pages.
        confidence: With `tokens`, the probability with which `DecodeInfo.error_bound` has to hold,
            for each head and step by itself, in (0, 1); None asks for no bound.
        seed: With `tokens`, where draws start that no key was given for.

    Raises:
        ValueError: for a value outside these, or fields that contradict each other, by name.
    """

    pages: int | None = 64
    tolerance: float | None = None
    summary: Summary | None = "sketch"
    sink: int = 1
    recent: int = 1
    otherwise: Otherwise = "keep"
    superpages: int | None = None
    dense_below: int = 0
    tokens: int | None = None
    confidence: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choice("summary", self.summary, (*KINDS, None))
        _check_choice("otherwise", self.otherwise, ("keep", "widen", "dense"))
        _check_count("pages", self.pages, least=1, optional=True)
        _check_count("superpages", self.superpages, least=1, optional=True)
        for name in ("sink", "recent", "dense_below"):
            _check_count(name, getattr(self, name), least=0, optional=False)
        _check_count("tokens", self.tokens, least=1, optional=True)
        _check_count("seed", self.seed, least=0, optional=False)
        _check_share("tolerance", self.tolerance, "0.05")
        _check_share("confidence", self.confidence, "0.999999")
        if self.tokens is not None:
            self._check_drawn()
            return
        if self.confidence is not None or self.seed != 0:
            raise ValueError(
                f"confidence={self.confidence} and seed={self.seed} speak of drawn tokens, and "
                "tokens=None draws none. Use Policy.sampled(...)."
            )
        if self.summary is None:
            asked = (self.pages, self.tolerance, self.otherwise, self.superpages)
            if asked != (None, None, "keep", None):
                raise ValueError(
                    f"summary=None reads everything, so pages={self.pages}, "
                    f"tolerance={self.tolerance}, otherwise={self.otherwise!r} and "
                    f"superpages={self.superpages} have nothing to say. Use Policy.dense(), or a "
                    "summary."
                )
            return
        self._check_routed()

    def _check_drawn(self) -> None:
        asked = (self.pages, self.summary, self.otherwise)
        if asked != (None, "sketch", "keep"):
            raise ValueError(
                f"tokens={self.tokens} are drawn by their sketch, so pages={self.pages}, "
                f"summary={self.summary!r} and otherwise={self.otherwise!r} have nothing to say. "
                f"Use Policy.sampled({self.tokens}), or tokens=None to read pages."
            )
        if self.superpages is not None and self.confidence is not None:
            raise ValueError(
                f"confidence={self.confidence} asks for the bound of T8, which is proved for "
                f"tokens drawn independently, and superpages={self.superpages} are drawn as one. "
                "Use superpages=None, which scores every token, or confidence=None."
            )

    def _check_routed(self) -> None:
        if self.tolerance is not None and self.summary == "mean":
            raise ValueError(
                "a page mean bounds nothing from above, so no tolerance can be proved with it. Use "
                "summary='sketch', 'box' or 'ball', or tolerance=None."
            )
        if self.tolerance is None and self.otherwise != "keep":
            raise ValueError(
                f"otherwise={self.otherwise!r} needs a tolerance to decide by: give one, for "
                "example tolerance=0.05, or use otherwise='keep'."
            )
        if self.pages is None and self.otherwise != "widen":
            raise ValueError(
                f"pages=None leaves the number to the certificate, but otherwise="
                f"{self.otherwise!r} reads a fixed number: give pages, or use otherwise='widen'."
            )
        if self.pages is not None and self.pages < self.always:
            raise ValueError(
                f"pages is {self.pages}, but {self.sink} sink and {max(1, self.recent)} recent "
                f"pages (the last always counts) are always read. Use pages={self.always} or "
                "more, or lower sink and recent."
            )
        if self.superpages is not None:
            if self.otherwise != "keep":
                raise ValueError(
                    f"otherwise={self.otherwise!r} needs the bound of every page: use "
                    "superpages=None, or otherwise='keep'."
                )
            if self.pages is not None and self.superpages * PAGES_PER_SUPERPAGE < self.pages:
                raise ValueError(
                    f"{self.superpages} superpages have {self.superpages * PAGES_PER_SUPERPAGE} "
                    f"children, fewer than pages={self.pages}. Use superpages="
                    f"{-(-self.pages // PAGES_PER_SUPERPAGE)} or more, or None to judge every page."
                )

    @property
    def always(self) -> int:
        """Pages read whatever the query: the sink, the recent ones and the last."""
        return self.sink + max(1, self.recent)

    @property
    def proves(self) -> bool:
        """Whether something is to be proved of what is not read."""
        return (self.tolerance if self.tokens is None else self.confidence) is not None

    @classmethod
    def sampled(
        cls,
        tokens: int = 256,
        *,
        tolerance: float | None = None,
        confidence: float | None = None,
        seed: int = 0,
        sink: int = 1,
        recent: int = 1,
        dense_below: int = 1024,
        superpages: int | None = None,
    ) -> "Policy":
        """So many tokens, whatever the context: sink and recent pages, and a sample of the rest.

        Tokens are drawn in proportion to their sketched mass and the length of their value, and
        weighted by 1/probability. The error then falls with the square root of their number,
        depends on the context mainly through the share of the mass that is drawn from, which grows
        slowly on real text, and is estimated by the sample itself (T8): see
        `DecodeInfo.error_estimate`. A context of at most `tokens` is read whole.

        Args:
            tokens: Expected tokens read by a kv head, sure ones included. One that is spread out
                draws more than one that few tokens serve, from half as many to half as many again.
            tolerance: Estimated relative error above which a row reads twice as many tokens, up to
                8 times, and then everything.
            confidence: Probability with which `DecodeInfo.error_bound` holds, for each head and
                step by itself, for example 1 − 1e-6. The bound is useful with sketches of 4 bits
                and more.
            seed: Of draws without a key; equal seeds and equal questions give equal answers.
            sink: First pages that are always read.
            recent: Last pages that are always read. A page that is not full always is.
            dense_below: Contexts with room for at most so many tokens are read densely.
            superpages: Superpages of 16 pages that are drawn first, on average, by their means;
                tokens are then drawn from those, and the sketches of all others stay unread: for
                long contexts, where scoring every token costs the most. None scores every token,
                and so does a number that would spare less than half of the superpages there is room
                for (16 spare enough from some 14,000 tokens on). Excludes `confidence`.
        """
        return cls(
            pages=None,
            tolerance=tolerance,
            superpages=superpages,
            sink=sink,
            recent=recent,
            dense_below=dense_below,
            tokens=tokens,
            confidence=confidence,
            seed=seed,
        )

    @classmethod
    def published(cls, pages: int = 64) -> "Policy":
        """The published routing: best page means, a fixed number of pages, nothing proved."""
        return cls(pages=pages, summary="mean", sink=0, recent=1)

    @classmethod
    def budget(
        cls, pages: int = 64, *, summary: Summary = "sketch", dense_below: int = 1024
    ) -> "Policy":
        """A fixed number of pages found on two levels: cost hardly grows with the context.

        Superpages are judged by their boxes, the pages in the best of them by `summary`. Boxes
        cost less than sketches and find the right page less often. Contexts with room for at most
        `dense_below` tokens are read densely.
        """
        _check_count("pages", pages, least=1, optional=False)
        return cls(
            pages=pages,
            summary=summary,
            superpages=max(4, pages // 2),
            dense_below=dense_below,
        )

    @classmethod
    def certified(
        cls, tolerance: float = 0.05, *, summary: Summary = "sketch", dense_below: int = 8192
    ) -> "Policy":
        """As many pages as the proof needs that at most `tolerance` of the mass was dropped.

        Up to `dense_below` tokens judging every key costs more than it saves (on a CPU, measured by
        ``python -m experiments decode_cpu``); 0 asks for the proof at every length.
        """
        return cls(
            pages=None,
            tolerance=tolerance,
            summary=summary,
            otherwise="widen",
            dense_below=dense_below,
        )

    @classmethod
    def dense(cls) -> "Policy":
        """Everything."""
        return cls(pages=None, summary=None, sink=0, recent=0)


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if not isinstance(value, str | None) or value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {choices}.")


def _check_count(name: str, value: object, *, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not is_integer(value, least=least, most=2**31 - 1):
        raise ValueError(
            f"{name} is {value!r}; an integer of at least {least} and below 2**31 is expected"
            f"{', or None' if optional else ''}."
        )


def _check_share(name: str, value: object, example: str) -> None:
    if value is None:
        return
    # Only a number can be part of a policy: an array is not hashable, which jit needs.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
        raise ValueError(
            f"{name} is {value!r}; a share between 0 and 1 (both excluded) is expected, as a "
            f"Python number, for example {example}, or None to ask for none."
        )
