"""Sparse paged decoding in stages on plain arrays: score pages, select, attend; read tokens."""

from vashista_theory.attention.kernels.api import IMPLEMENTATIONS as IMPLEMENTATIONS
from vashista_theory.attention.kernels.api import attend_pages as attend_pages
from vashista_theory.attention.kernels.api import capabilities as capabilities
from vashista_theory.attention.kernels.api import score_pages as score_pages
from vashista_theory.attention.kernels.api import select_pages as select_pages
from vashista_theory.attention.kernels.spec import Attended as Attended
from vashista_theory.attention.kernels.spec import PageScores as PageScores
from vashista_theory.attention.kernels.spec import Selected as Selected
from vashista_theory.attention.kernels.token_api import attend_tokens as attend_tokens
from vashista_theory.attention.kernels.token_api import score_tokens as score_tokens
from vashista_theory.attention.kernels.token_spec import AttendedTokens as AttendedTokens
