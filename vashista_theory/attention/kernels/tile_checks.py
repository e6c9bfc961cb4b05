"""What tiles of every kernel are held to."""


def check_multiple(name: str, value: int, of: int, reason: str) -> None:
    """Raise for a tile that is no positive multiple."""
    if value < of or value % of:
        raise ValueError(f"{name} is {value}; a positive multiple of {of} is expected ({reason}).")
