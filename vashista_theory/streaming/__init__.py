"""Projection where the keys are larger than memory: passes over blocks, a small working set."""

from vashista_theory.streaming.answer import BlockProjection as BlockProjection
from vashista_theory.streaming.answer import Pass as Pass
from vashista_theory.streaming.project import project_blocks as project_blocks
