"""Names, numbers, noise and prose that prompts are made of; nothing is downloaded."""

import functools
import re
from collections.abc import Iterator

import numpy as np

ADJECTIVES = (
    "amber", "ancient", "bitter", "blue", "brave", "bright", "broken", "calm", "clever", "cold",
    "copper", "crimson", "curious", "dark", "distant", "eager", "early", "empty", "fading", "fast",
    "gentle", "golden", "grand", "green", "hidden", "hollow", "honest", "humble", "icy", "jolly",
    "late", "lonely", "loud", "lucky", "mellow", "narrow", "noble", "pale", "patient", "plain",
    "proud", "quick", "quiet", "rapid", "red", "rough", "rusty", "shy", "silent", "silver",
    "simple", "slow", "smooth", "solid", "steady", "sunny", "tall", "tidy", "warm", "young",
)  # fmt: skip
NOUNS = (
    "anchor", "arrow", "basket", "beacon", "bell", "bridge", "candle", "canyon", "castle", "cedar",
    "cloud", "comet", "desert", "engine", "falcon", "feather", "field", "forest", "garden",
    "glacier", "hammer", "harbor", "hill", "island", "jacket", "kettle", "ladder", "lantern",
    "lemon", "lion", "marble", "meadow", "mirror", "mountain", "needle", "ocean", "orchard",
    "otter", "paper", "pepper", "piano", "planet", "pocket", "prairie", "rabbit", "river", "rocket",
    "saddle", "sail", "shadow", "spider", "spoon", "station", "stone", "temple", "tiger", "tower",
    "valley", "violin", "window",
)  # fmt: skip
_NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "The road goes on.",
    "The water is clear.",
    "Here we go.",
    "There and back again.",
    "The night is long.",
)


def names(rng: np.random.Generator, count: int) -> list[str]:
    """Distinct names such as "amber falcon"."""
    chosen = rng.choice(len(ADJECTIVES) * len(NOUNS), size=count, replace=False)
    return [f"{ADJECTIVES[i // len(NOUNS)]} {NOUNS[i % len(NOUNS)]}" for i in chosen.tolist()]


def numbers(rng: np.random.Generator, count: int, *, digits: int = 7) -> list[str]:
    """Distinct numbers of so many digits, the first not 0."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[str(rng.integers(10 ** (digits - 1), 10**digits))] = None
    return list(found)


def noise(rng: np.random.Generator) -> Iterator[str]:
    """Short sentences about nothing, without end."""
    while True:
        yield from (_NOISE[i] for i in rng.permutation(len(_NOISE)).tolist())


def prose(rng: np.random.Generator) -> Iterator[str]:
    """Paragraphs of the standard library's documentation, from a random one on, round and round."""
    paragraphs = standard_paragraphs()
    start = int(rng.integers(len(paragraphs)))
    while True:
        yield from paragraphs[start:] + paragraphs[:start]


def standard_text() -> str:
    """`pydoc_data.topics`: long technical prose that every Python has."""
    from pydoc_data.topics import topics  # pyright: ignore[reportMissingModuleSource]

    return "\n\n".join(topics[name].strip() for name in sorted(topics))


@functools.cache
def standard_paragraphs() -> tuple[str, ...]:
    """Its paragraphs of ordinary length, each on one line."""
    flat = (re.sub(r"\s+", " ", part).strip() for part in standard_text().split("\n\n"))
    return tuple(part for part in flat if 80 <= len(part) <= 1200)
