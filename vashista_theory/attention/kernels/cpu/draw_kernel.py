# pyright: basic
"""Drawing tokens by their sketch (T8): the steps of `step.sampling` and `step.drawing` on arrays.

Masses are found piece by piece, relative to the greatest of each piece; a sequence then draws.
"""

import numpy as np

from vashista_theory.attention.bounds.random_bits import BITS
from vashista_theory.attention.bounds.sampling import LEAST, MOST, SHORTEST
from vashista_theory.attention.kernels.cpu.arithmetic import exponential, threefry, widened
from vashista_theory.attention.kernels.cpu.native import compiled, run
from vashista_theory.attention.kernels.cpu.sketch_sums import score_keys

PIECE = 32
"""Pages that are scored at once, by whichever thread is free."""
_PASSES = 64  # of Newton's method, as in plain JAX
_STEPS = np.float32(2.0**BITS)
_SHIFT = np.uint32(32 - BITS)
_ONE, _ZERO, _NOTHING = np.float32(1.0), np.float32(0.0), np.float32(-np.inf)
_SHORTEST, _LEAST, _MOST = np.float32(SHORTEST), np.float32(LEAST), np.float32(MOST)
_LENGTH = np.float32((1.0 + 2.0**-22) / 255)  # `summaries.value_lengths`: from above, in 255ths


@compiled()
def score_piece(query, scale, levels, boxes, codes, physical, masses, tops):
    """Masses of the tokens of some pages relative to the greatest, by head of the group.

    Args:
        query: (G, D).
        scale: Of the logits.
        levels: Steps of the grid of the codes between the corners of a box.
        boxes: (N, D) pairs of bfloat16.
        codes: (N, c, S).
        physical: (n,) pages.
        masses: (G, n S) result.
        tops: (G, 2) result: the greatest logit, and the sum of the masses.
    """
    group, d = query.shape
    size = codes.shape[2]
    coefficients, sums = np.empty((group, d), np.float32), np.empty((group, size), np.float32)
    for g in range(group):
        tops[g, 0], tops[g, 1] = _NOTHING, _ZERO
    for page in range(physical.size):
        box, own_codes = boxes[physical[page]], codes[physical[page]]
        score_keys(query, box, levels, own_codes, coefficients, sums)
        for g in range(group):
            top, own = tops[g, 0], run(masses[g, page * size : (page + 1) * size])
            for s in range(size):
                own[s] = scale * sums[g, s]
                top = max(top, own[s])
            tops[g, 0] = top
    for g in range(group):
        top, total, own = tops[g, 0], _ZERO, run(masses[g])
        for t in range(physical.size * size):
            own[t] = exponential(own[t] - top)
            total += own[t]
        tops[g, 1] = total


@compiled()
def group_shares(tops, sure, row):
    """The share that the greatest logit of each head of a row has, over the greatest such share.

    Args:
        tops: (Hkv, pieces, G, 2), of `score_piece`.
        sure: (Hkv, G) log-mass of what is read anyway.
        row: The kv head that is asked for; the greatest share is that of all of them.

    Returns:
        The shares (G,), and the greatest logits (G,).
    """
    kv_heads, pieces, group, _ = tops.shape
    shares, greatest = np.empty(group, np.float32), np.empty(group, np.float32)
    most = _NOTHING
    for k in range(kv_heads):
        for g in range(group):
            top, tail = _NOTHING, _ZERO
            for piece in range(pieces):
                top = max(top, tops[k, piece, g, 0])
            for piece in range(pieces):
                if tops[k, piece, g, 1] != 0:
                    tail += tops[k, piece, g, 1] * exponential(tops[k, piece, g, 0] - top)
            share = top - np.logaddexp(sure[k, g], top + np.log(tail))
            most = max(most, share)
            if k == row:
                shares[g], greatest[g] = share, top
    for g in range(group):
        shares[g] = exponential(shares[g] - most)
    return shares, greatest


@compiled()
def weigh_row(masses, tops, share, greatest, bounds, codes, physical, proxies):
    """What the tokens of a row are drawn by: their share in the group, times their value's length.

    Args:
        masses: (G, n S), by head relative to the greatest of its piece.
        tops: (pieces, G, 2), of `score_piece`.
        share: (G,), of `group_shares`.
        greatest: (G,), of `group_shares`.
        bounds: (N,) bfloat16, on the length of any value of a page.
        codes: (N, S), on that of each, in 255ths.
        physical: (n,) pages.
        proxies: (n S,) result; may be the masses of the first head.
    """
    group, size = share.size, codes.shape[1]
    most, longest = _ZERO, _ZERO
    for g in range(group):
        most = max(most, share[g])
    for page in range(physical.size):
        code = np.int32(0)
        for s in range(size):
            code = max(code, np.int32(codes[physical[page], s]))
        longest = max(longest, _length(bounds[physical[page]], code))
    known = longest > 0 and np.isfinite(longest)
    relative, length = np.empty(group, np.float32), np.empty(size, np.float32)
    before, after = _ZERO, _ZERO
    for page in range(physical.size):
        for g in range(group):
            part = share[g] / most if most > 0 else share[g]
            top, total = tops[page // PIECE, g]
            relative[g] = part * exponential(top - greatest[g]) if total != 0 else _ZERO
        bound, own = bounds[physical[page]], run(proxies[page * size : (page + 1) * size])
        lengths = codes[physical[page]]
        unit = _length(bound, 1) / longest if known else _ZERO
        least = _SHORTEST if known else _ONE
        length[:] = _ZERO
        for g in range(group):
            mass, part = run(masses[g, page * size : (page + 1) * size]), relative[g]
            for s in range(size):
                length[s] += (mass[s] * part) * (mass[s] * part)
        for s in range(size):
            length[s] = np.sqrt(length[s])
        if group == 1:  # without the squares, which underflow
            mass = run(masses[0, page * size : (page + 1) * size])
            for s in range(size):
                length[s] = mass[s] * relative[0]
        for s in range(size):
            proxy = length[s] * most
            before += proxy
            own[s] = proxy * max(np.float32(lengths[s]) * unit, least)
            after += own[s]
    factor = before / after if after > 0 else before
    every = run(proxies)
    for t in range(every.size):
        every[t] *= factor


@compiled()
def _length(bound, code):
    """From above, of a value; +inf where that of its page is."""
    longest = widened(bound)
    return longest * (np.float32(code) * _LENGTH) if np.isfinite(longest) else longest


@compiled()
def thresholds(proxies, base, numbers, inverse):
    """`drawing.thresholds`: how many tokens each kv head draws, and its 1/τ.

    Args:
        proxies: (Hkv, n).
        base: How many each draws on average.
        numbers: (Hkv,) result.
        inverse: (Hkv,) result.
    """
    kv_heads, there = proxies.shape[0], np.float32(proxies.shape[1])
    for k in range(kv_heads):
        numbers[k], inverse[k] = base, _ZERO
    if kv_heads == 1 or there <= base:
        if there > base:
            inverse[0] = inverse_threshold(proxies, base, _ZERO)
        return
    shared = inverse_threshold(proxies, base * kv_heads, _ZERO)
    drawn = np.empty(kv_heads, np.float32)
    for k in range(kv_heads):
        total, own = _ZERO, run(proxies[k])
        for t in range(own.size):
            total += min(_ONE, own[t] * shared) if own[t] > 0 else _ZERO
        drawn[k] = total
    within_limits(drawn, _LEAST * base, min(_MOST * base, there), base * kv_heads, numbers)
    for k in range(kv_heads):
        if there > numbers[k]:
            # Where the shared threshold draws no more, it is not far below the head's own.
            start = shared if drawn[k] <= numbers[k] * np.float32(1 + 1e-5) else _ZERO
            inverse[k] = inverse_threshold(proxies[k : k + 1], numbers[k], start)


@compiled()
def inverse_threshold(proxies, expected, start):
    """`drawing.inverse_threshold` of several rows as one, with more tokens than are expected."""
    inverse, count = start, np.int64(-1)
    for _ in range(_PASSES):
        sure, rest = np.int64(0), _ZERO
        for k in range(proxies.shape[0]):
            more, own = np.int32(0), run(proxies[k])
            for t in range(own.size):
                is_sure = own[t] * inverse >= _ONE
                more += np.int32(is_sure)
                rest += _ZERO if is_sure else own[t]
            sure += more
        if rest > 0:
            inverse = max(inverse, (expected - np.float32(sure)) / rest)
        if sure == count:
            break
        count = sure
    return inverse


@compiled()
def within_limits(numbers, least, most, total, chosen):
    """`drawing.within_limits` of one sequence, (Hkv,) numbers with limits common to all."""
    tiny = np.float32(2.0**-23) * total
    floor = tiny if tiny > 0 else _ONE
    low, high, smallest = _NOTHING, np.float32(np.inf), np.float32(np.inf)
    for k in range(2 * numbers.size):
        factor = (least if k < numbers.size else most) / max(numbers[k % numbers.size], floor)
        smallest = min(smallest, factor)
        at = _sum_of_limited(numbers, floor, factor, least, most)
        low = max(low, factor) if at <= total else low
        high = min(high, factor) if at >= total else high
    low = low if np.isfinite(low) else smallest
    high = high if np.isfinite(high) else low
    at_low = _sum_of_limited(numbers, floor, low, least, most)
    rise = _sum_of_limited(numbers, floor, high, least, most) - at_low
    part = (total - at_low) / rise if rise > 0 else _ZERO
    factor = low + min(max(part, _ZERO), _ONE) * (high - low)
    for k in range(numbers.size):
        chosen[k] = min(max(factor * max(numbers[k], floor), least), most)


@compiled()
def _sum_of_limited(numbers, floor, factor, least, most):
    total = _ZERO
    for k in range(numbers.size):
        total += min(max(factor * max(numbers[k], floor), least), most)
    return total


@compiled()
def is_drawable(proxies, inverse):
    """Whether all proxies and the threshold are numbers."""
    bad, every = np.int32(0), run(proxies)
    for t in range(every.size):
        bad += np.int32(not np.isfinite(every[t]))
    return bad == 0 and np.isfinite(inverse)


@compiled()
def list_drawn(proxies, inverse, whole, key, first, size, places, weights):
    """Draw each token on its own, and list those that are, and how likely each was.

    Args:
        proxies: (n S,).
        inverse: 1/τ.
        whole: Whether every token is drawn.
        key: (2,) words.
        first: Logical page of the first token.
        size: S, even.
        places: (C,) result, by number in the sequence; what is drawn beyond it is not listed.
        weights: (C,) result, log 1/π.

    Returns:
        How many tokens were drawn, and of how many pages.
    """
    half = size // 2
    random, steps = np.empty((2, half), np.int32), np.empty(size, np.int32)
    found, pages = 0, 0
    for page in range(proxies.size // size):
        counter = (first + page) * half
        for s in range(half):
            even, odd = threefry(key[0], key[1], np.uint32(counter + s), np.uint32(0))
            random[0, s], random[1, s] = np.int32(even >> _SHIFT), np.int32(odd >> _SHIFT)
        hits, own = np.int32(0), run(proxies[page * size : (page + 1) * size])
        for s in range(size):
            share = min(_ONE, own[s] * inverse) if own[s] > 0 else _ZERO
            steps[s] = np.int32(_STEPS if whole else max(_ONE, np.ceil(share * _STEPS)))
        for s in range(half):
            hits += np.int32(random[0, s] < steps[2 * s])
            hits += np.int32(random[1, s] < steps[2 * s + 1])
        if hits == 0:
            continue
        pages += 1
        for s in range(size):
            if random[s % 2, s // 2] < steps[s]:
                if found < places.size:
                    places[found] = (first + page) * size + s
                    weights[found] = -np.log(np.float32(steps[s]) / _STEPS)
                found += 1
    return found, pages
