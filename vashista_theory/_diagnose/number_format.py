"""Numbers as people read them."""

import math


def number(value: float) -> str:
    """Four significant digits; ∞ and — for the infinite and the undefined."""
    if math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.4g}"


def mass(log_mass: float) -> str:
    """A share of the whole from its logarithm: a percentage, or a power of e where tiny."""
    if math.isnan(log_mass):
        return "—"
    if log_mass == -math.inf:
        return "0"
    if log_mass < math.log(1e-6):
        return f"e^{log_mass:.2f}"
    return f"{100 * math.exp(min(log_mass, 0.0)):.4g} %"


def nats(value: float) -> str:
    """A logarithm: hundredths of a nat where it is large, four digits where it is small."""
    return f"{value:.2f}" if 10 <= abs(value) < math.inf else number(value)


def length(log_length: float) -> str:
    """A length from its logarithm, as a power of e where it would underflow."""
    return f"e^{log_length:.2f}" if -math.inf < log_length < -700 else number(math.exp(log_length))
