"""What a decode step reports about itself."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._results import Result


class DecodeInfo(eqx.Module):
    """What was read, what that proves, and what was done about it.

    Proofs hold for the numbers as they are stored, whatever their size: where scores, lengths or
    squares overflow or underflow, a bound gets worse and not wrong. Unless `result` is successful
    nothing is proved: `certified` is False, and the bounds say what is always true (1 of the mass,
    an infinite error, a gap of −inf).

    Attributes:
        pages_read: Pages read for each query head (heads of one group read together), with drawn
            tokens those of which at least one token was read.
        tokens_read: Tokens behind the output, those of pages that are not full included.
        log_mass: Log of the summed e^(scale × score) of the keys read, in nats; −inf for none, NaN
            with coupling. Of two reads of one query, it differs by log(1 − dropped mass). With
            drawn tokens it is the log of an estimate (T8), unbiased if no tolerance is asked for.
        dropped_mass_bound: Proven bound on the softmax mass of everything unread (T7); NaN where
            no proof was asked for (no tolerance) or none exists (coupling > 0).
        dropped_mass_lower: Proven lower bound on the same mass: the other end of the bracket.
        dropped_mass_estimate: The same mass as the summaries estimate it. Not a bound.
        error_bound: Proven bound on ‖output − dense output‖, in units of the values; +inf where
            values are too long to be bounded. The rounding of the output itself, which dense
            attention has too, is not in it. With drawn tokens it holds at the policy's confidence
            (T8), for each head by itself, over the key of the step: NaN where none was asked for.
        error_estimate: Standard deviation of the output as the drawn tokens tell (T8), in units of
            the values; 0 where everything was read, NaN for policies that draw nothing and for a
            failed step, +inf where by chance not one token was drawn of those that are not sure
            to be read: such a sample tells nothing of them (0 where their sketch gives them no
            weight). Not a bound.
        gap: Best score ⟨q, k⟩ read minus the best upper bound of any unread page, from below;
            negative when an unread page might hold the best key, −inf when nothing bounds one,
            +inf when nothing is unread.
        certified: Whether the dropped mass is proven to be at most the policy's tolerance; with
            drawn tokens whether everything was read, or the relative error is proven to be at most
            the tolerance at the confidence asked for.
        fell_back: Whether the row was read densely because the proof failed, or with drawn tokens
            because the estimated error stayed above the tolerance or far too many were drawn.
        bytes_read: Bytes of pages and summaries read, by sequence and kv head.
        result: `successful`, `nonfinite_input` (scores or output that overflow included),
            `invalid_page`, or with coupling > 0 `stagnated`:
            some projection was not found to half of the digits, for scale × coupling × (spread of
            the keys)² is too large for the type.
    """

    pages_read: Int[Array, "B H"]
    tokens_read: Int[Array, "B H"]
    log_mass: Float[Array, "B H"]
    dropped_mass_bound: Float[Array, "B H"]
    dropped_mass_lower: Float[Array, "B H"]
    dropped_mass_estimate: Float[Array, "B H"]
    error_bound: Float[Array, "B H"]
    error_estimate: Float[Array, "B H"]
    gap: Float[Array, "B H"]
    certified: Bool[Array, "B H"]
    fell_back: Bool[Array, "B H"]
    bytes_read: Float[Array, "B Hkv"]
    result: Result
