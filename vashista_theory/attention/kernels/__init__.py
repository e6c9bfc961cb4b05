"""Sparse paged decoding in three stages on plain arrays: score pages, select, attend."""

from vashista_theory.attention.kernels.api import IMPLEMENTATIONS as IMPLEMENTATIONS
from vashista_theory.attention.kernels.api import attend_pages as attend_pages
from vashista_theory.attention.kernels.api import capabilities as capabilities
from vashista_theory.attention.kernels.api import score_pages as score_pages
from vashista_theory.attention.kernels.api import select_pages as select_pages
from vashista_theory.attention.kernels.spec import Attended as Attended
from vashista_theory.attention.kernels.spec import PageScores as PageScores
from vashista_theory.attention.kernels.spec import Selected as Selected
