"""The symbol table, and what public functions take.

=====================  =============  ==============================================
name in code           shape          symbol in the statements
=====================  =============  ==============================================
``keys``               ``(n, d)``     K, rows k_i
``query``              ``(d,)``       q
``point``              ``(d,)``       p*, the projection of q on conv{k_i}
``weights``            ``(n,)``       α, p* = Kᵀα
``multipliers``        ``(n,)``       μ_i = ⟨q − p*, p* − k_i⟩ ≥ 0
``face``               ``(n,)``       F = {i : μ_i = 0}, the exposed face
``gap``                ``()``         Δ = min over i ∉ F of μ_i, the support gap
``epsilon``            ``()``/``(E,)``  ε > 0, the temperature of the relaxation
``displacement``       ``(E,)``       ‖δ‖ = ‖p^ε − p*‖
``log_off_face_mass``  ``(E,)``       log m = log Σ_{i∉F} α_i^ε, in nats
``tangent``            ``(d,)``       w₀, the limit of −δ/ε
``entropy``            ``()``         h, the entropy of the maximum-entropy weights, in nats
=====================  =============  ==============================================
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

ArrayLike: TypeAlias = jax.typing.ArrayLike | np.ndarray | Sequence[Any]
"""What public functions take: arrays, numbers, nested lists or tuples; they check by hand."""
