"""Problems: the schema, the readers, and chain arithmetic, a task that is generated."""

from .chain import ChainTask, generate, split_of, vocabulary
from .errors import DataError, UserError
from .gsm8k import parse_gsm8k
from .loading import load_problems
from .problem import Problem, parse_problem, read_problems, write_problems

__all__ = [
    "ChainTask",
    "DataError",
    "Problem",
    "UserError",
    "generate",
    "load_problems",
    "parse_gsm8k",
    "parse_problem",
    "read_problems",
    "split_of",
    "vocabulary",
    "write_problems",
]
