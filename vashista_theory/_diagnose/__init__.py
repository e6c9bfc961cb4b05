"""Everything the toolkit knows about one query and its keys, on one page."""

from vashista_theory._diagnose.measure import diagnose as diagnose
from vashista_theory._diagnose.page import Diagnosis as Diagnosis
