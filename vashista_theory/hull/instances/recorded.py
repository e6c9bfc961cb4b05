"""Real attention heads as projection problems."""

from functools import lru_cache

from vashista_theory.hull.heads import Heads, load_heads
from vashista_theory.hull.instances.registry import Draw, Drawn, family, require


@lru_cache(maxsize=2)
def _load(path: str | None) -> Heads:
    return load_heads(path)


@family("heads", fixed_by_data=True)
def heads(draw: Draw, *, path: str | None = None) -> Drawn:
    """Real queries with the keys they see, from the packaged sample or a heads file.

    The seed counts through the file: all heads of all layers at the last position first, then
    those at the position before. The query at position t sees keys 0 to t, so n = t + 1, and d is
    the head size. Scores are ⟨q, k⟩·scale: the model's own temperature is 1/scale, given as the
    parameter `temperature` beside `layer`, `head` and `position`. Nothing is known in advance.
    """
    data = _load(path)
    require(
        draw.seed < data.count,
        "heads",
        f"seed {draw.seed} of {data.count} recorded queries",
        f"give a seed below {data.count}",
    )
    layer_index, head, position_index = data.locate(draw.seed)
    query, keys, _ = data.attend(layer_index, head, position_index)
    place = {
        "layer": int(data.layers[layer_index]),
        "head": head,
        "position": int(data.positions[position_index]),
        "temperature": 1.0 / data.scale,
    }
    return Drawn(keys, query, parameters=place)
