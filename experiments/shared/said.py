"""The policies of an evaluation in the words of text, tables and figures, by what they read."""

_PAGES = {
    "oracle-pages": "pages of most mass",
    "budget": "pages by 2-bit keys",
    "budget-two-levels": "2-bit keys, boxes first",
    "boxes": "pages by boxes",
    "sink-recent": "window",
    "published": "pages by their means",
}
_TOKENS = {
    "oracle-tokens": "tokens of most mass",
    "sampled": "drawn by 2-bit keys",
    "sampled-1-bit": "drawn by 1-bit keys",
    "sampled-4-bit": "drawn by 4-bit keys",
    "sketched-tokens": "best tokens by 2-bit keys",
    "double-sparsity": "tokens by DoubleSparsity",
    "half-uniform": "half most mass, half uniform",
}


def in_words(policy: str) -> str:
    """A policy by what it does.

    ``budget@64`` is 64 pages by 2-bit keys; ``sampled@16`` reads as many single tokens as 16 pages
    have, and says so.
    """
    name, _, pages = policy.partition("@")
    if name.startswith("certified-"):
        return f"certified to {float(name.removeprefix('certified-')):.0%}"
    if name in _TOKENS:
        return _TOKENS[name] + (f", as many as {pages} pages have" if pages else "")
    return f"{pages} {_PAGES.get(name, name)}".strip()
