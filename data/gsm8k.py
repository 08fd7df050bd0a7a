"""GSM8K and GSM8K-Aug rows as Problems.

GSM8K has one prose answer: `He sells <<48/2=24>>24 clips.\\n#### 24`. GSM8K-Aug has the `<<...>>` expressions as steps,
in a list or in one string, and the bare answer.
"""

import re
from typing import Any

from .errors import DataError, shown
from .problem import Problem, parse_problem

_EXPRESSION = re.compile(r"<<[^<>]*>>")
_FINAL = "####"


def parse_gsm8k(row: dict[str, Any], where: str) -> Problem:
    """Return a GSM8K row (question, answer) or a GSM8K-Aug row (question, steps, answer) as a Problem.

    GSM8K: the steps are the `<<...>>` expressions of the answer, brackets included; the answer is what follows the last
    `####`, without thousands commas. A row without expressions has no steps. GSM8K-Aug: a row with `steps`, kept as it
    is; a string of expressions separated by spaces is split.

    Raises:
        DataError: as `parse_problem`; no `####` in a GSM8K answer; text between the expressions of a steps string.
    """
    if "steps" in row:
        steps = row["steps"]
        return parse_problem({**row, "steps": _expressions(steps, where)} if isinstance(steps, str) else row, where)
    answer = row.get("answer")
    if not isinstance(answer, str) or _FINAL not in answer:
        raise DataError(
            f"{where}: answer is {shown(answer)}. A GSM8K answer is prose that ends with '#### <number>'; for "
            f"GSM8K-Aug name the column of its expressions in `columns`, such as steps: cot."
        )
    prose, _, final = answer.rpartition(_FINAL)
    return parse_problem({**row, "steps": _EXPRESSION.findall(prose), "answer": final.replace(",", "")}, where)


def _expressions(text: str, where: str) -> list[str]:
    rest = _EXPRESSION.sub(" ", text).strip()
    if rest:
        raise DataError(
            f"{where}: steps has {shown(rest)} outside of its <<...>> expressions. Separate expressions by spaces "
            f"only, or use step_splitter 'line' or 'sentence' for prose."
        )
    return _EXPRESSION.findall(text)
