"""What a decode step may read, what it must prove, and what it does when it cannot."""

from dataclasses import dataclass
from typing import Literal

from vashista_theory._checks import is_integer
from vashista_theory.attention.bounds.summaries import PAGES_PER_SUPERPAGE, Summary

Otherwise = Literal["keep", "widen", "dense"]


@dataclass(frozen=True)
class Policy:
    """How `vashista_attention` chooses pages. Presets: `published`, `budget`, `certified`, `dense`.

    Attributes:
        pages: Pages that each kv head reads, sink and recent ones included; with "widen" the
            least number, and None lets the certificate alone decide.
        tolerance: Dropped softmax mass that may not be exceeded, in (0, 1); None asks for no
            proof, and the mass is then estimated, not bounded.
        summary: What pages are judged by; None reads everything.
        sink: First pages that are always read.
        recent: Last pages that are always read. A page that is not full always is.
        otherwise: What happens, row by row, when `pages` do not suffice to prove `tolerance`:
            "keep" the answer and say so, "widen" a page at a time in order of the bounds until it
            is proved, or read that row "dense".
        superpages: Superpages of 16 pages whose children are judged; the others are judged as one.
            None judges every page.
        dense_below: Contexts with room for at most so many tokens are read densely.
    """

    pages: int | None = 64
    tolerance: float | None = None
    summary: Summary | None = "sketch"
    sink: int = 1
    recent: int = 1
    otherwise: Otherwise = "keep"
    superpages: int | None = None
    dense_below: int = 0

    def __post_init__(self) -> None:
        _check_choice("summary", self.summary, ("mean", "box", "ball", "sketch", None))
        _check_choice("otherwise", self.otherwise, ("keep", "widen", "dense"))
        _check_count("pages", self.pages, least=1, optional=True)
        _check_count("superpages", self.superpages, least=1, optional=True)
        for name in ("sink", "recent", "dense_below"):
            _check_count(name, getattr(self, name), least=0, optional=False)
        _check_share("tolerance", self.tolerance)
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

    @classmethod
    def published(cls, pages: int = 64) -> "Policy":
        """The published routing: best page means, a fixed number of pages, nothing proved."""
        return cls(pages=pages, summary="mean", sink=0, recent=1)

    @classmethod
    def budget(cls, pages: int = 64, *, summary: Summary = "box") -> "Policy":
        """A fixed number of pages found on two levels: cost hardly grows with the context."""
        _check_count("pages", pages, least=1, optional=False)
        return cls(pages=pages, summary=summary, superpages=max(4, pages // 2), dense_below=1024)

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
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {choices}.")


def _check_count(name: str, value: object, *, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not is_integer(value, least=least, most=2**31 - 1):
        raise ValueError(
            f"{name} is {value!r}; an integer of at least {least} and below 2**31 is expected"
            f"{', or None' if optional else ''}."
        )


def _check_share(name: str, value: object) -> None:
    if value is None:
        return
    # Only a number can be part of a policy: an array is not hashable, which jit needs.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
        raise ValueError(
            f"{name} is {value!r}; a dropped mass between 0 and 1 (both excluded) is expected, as "
            "a Python number, for example 0.05, or None to ask for no proof."
        )
