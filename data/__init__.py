"""Problems: what one is, readers of files and datasets, and generated tasks (ours and reasoning-gym's)."""

from .chain import ChainTask, generate
from .conversation import Conversation, as_question
from .errors import DataError, UserError
from .graph_path import GraphPathTask
from .gsm8k import parse_gsm8k
from .gym import GymTask, generate_gym
from .loading import load_problems
from .problem import Problem, parse_problem, read_problems, write_problems
from .prosqa import ProsQATask
from .splits import split_of
from .tasks import TASKS, generate_task

__all__ = [
    "TASKS",
    "ChainTask",
    "Conversation",
    "DataError",
    "GraphPathTask",
    "GymTask",
    "Problem",
    "ProsQATask",
    "UserError",
    "as_question",
    "generate",
    "generate_gym",
    "generate_task",
    "load_problems",
    "parse_gsm8k",
    "parse_problem",
    "read_problems",
    "split_of",
    "write_problems",
]
