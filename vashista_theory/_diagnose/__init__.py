"""Whether heads can be read sparsely, and everything the toolkit knows about one query."""

from vashista_theory._diagnose.answer import Answer as Answer
from vashista_theory._diagnose.front import diagnose as diagnose
from vashista_theory._diagnose.page import Diagnosis as Diagnosis
