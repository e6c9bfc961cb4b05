"""The theorem checked on families of instances: ``python -m vashista_theory.sweep``."""

from vashista_theory.sweep.config import SweepConfig as SweepConfig
from vashista_theory.sweep.run import run as run
