"""Quality of sparse reading on a real language model: ``python -m vashista_theory.evaluation``."""

from vashista_theory.evaluation import token_policies as token_policies
from vashista_theory.evaluation.block import DecodeBlock as DecodeBlock
from vashista_theory.evaluation.block import Reading as Reading
from vashista_theory.evaluation.block import read_mask as read_mask
from vashista_theory.evaluation.config import EvaluationConfig as EvaluationConfig
from vashista_theory.evaluation.language_model import LanguageModel as LanguageModel
from vashista_theory.evaluation.policies import NamedPolicy as NamedPolicy
from vashista_theory.evaluation.policies import page_policy as page_policy
from vashista_theory.evaluation.run import run as run
from vashista_theory.evaluation.tasks.prompt import Prompt as Prompt
from vashista_theory.evaluation.tasks.prompt import Task as Task
