"""Numbers with their nouns, as sentences and tables say them."""


def count(how_many: int, noun: str) -> str:
    """A number with its noun, in the plural where it is due: 1 family, 2,000 families."""
    if how_many == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{how_many:,} {noun[:-1]}ies"
    return f"{how_many:,} {noun}{'es' if noun.endswith('s') else 's'}"
