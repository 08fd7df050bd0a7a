"""How many answers are drawn at once, so that their keys and values fit into memory.

The measure is tokens: columns of keys and values that are held at once, of all rows (see `engine/footprint.py`). A
sample depends on its seed alone, so a draw may be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....data.errors import reason
from ...system.activity import NOW
from ...system.memory import free_memory, lacks_memory
from ..config import LatentConfig, ModelError
from ..engine.footprint import Footprint, column_bytes

# Share of the free memory that a draw may take by default. The rest is for masks, for copies while rows are selected,
# and for what other processes take.
FREE_SHARE = 0.5
# Float32 vectors that a draw holds at once beside keys and values: logits of an answer (of the vocabulary's size); of
# each column of a row its states and embeddings, and of each column of a question what a layer makes of it (of the
# hidden size).
LOGITS, ROW_VECTORS, QUESTION_VECTORS = 6, 4, 24


class BudgetError(ModelError):
    """Answers that do not fit into what may be drawn at once, or into memory."""


@dataclass(frozen=True)
class Budget:
    """What may be drawn at once.

    Attributes:
        tokens: Columns of keys and values of all rows: questions, latents and answers. None: what half of the memory
            that is free holds.
        answers: Answers; None: any number.
        key: The user's name for `tokens`, for messages.
    """

    tokens: int | None = None
    answers: int | None = None
    key: str = "batch_tokens (evaluate.batch_tokens in a recipe)"


NO_LIMIT = Budget()


@dataclass(frozen=True)
class Room:
    """The room for a draw of answers to some prompts.

    Attributes:
        tokens: The budget's, or those chosen from free memory.
    """

    footprint: Footprint
    budget: Budget
    tokens: int

    @classmethod
    def of(
        cls, model: Any, prompts: Sequence[Sequence[int]], answers: int, max_new_tokens: int, budget: Budget
    ) -> Room:
        """The room of a model for `answers` answers in all.

        Raises:
            BudgetError: Not even one answer to some prompt fits.
        """
        footprint = Footprint.of(model.latent_config, prompts, max_new_tokens)
        if budget.tokens is not None:
            check_holds(budget.key, budget.tokens, footprint)
            return cls(footprint, budget, budget.tokens)
        free = FREE_SHARE * free_memory(model.device)
        return cls(footprint, budget, int(free / _token_bytes(model, footprint, len(prompts) / answers)))

    def rows(self, prompts: Sequence[int] | None = None) -> int:
        """Rows that a batch of these prompts may have; None: of all. At least one where tokens were not given."""
        rows = self.tokens // self.footprint.columns(prompts)
        if self.budget.tokens is None:
            rows = max(rows, 1)
        return rows if self.budget.answers is None else min(rows, self.budget.answers)

    def parts(self, rows: Tensor, thought: Tensor) -> list[Tensor]:
        """Cuts a draw: the answers of each part, as indices in rising order.

        A part holds whole prompts where they fit. The answers of a prompt are cut where they do not fit alone, between
        thoughts where that is enough.

        Args:
            rows: (N,) prompt of each answer.
            thought: (N,) thought of each answer. Thoughts belong to one prompt.
        """
        if len(rows) <= self.rows():
            return [torch.arange(len(rows))]
        parts: list[list[int]] = []
        prompts: list[int] = []  # of the part that is being filled
        part: list[int] = []
        for prompt, thoughts in _by_prompt(rows.tolist(), thought.tolist()).items():
            answers = [answer for of in thoughts for answer in of]
            if part and len(part) + len(answers) > self.rows([*prompts, prompt]):
                parts.append(part)
                prompts, part = [], []
            prompts.append(prompt)
            if len(part) + len(answers) <= self.rows(prompts):
                part = [*part, *answers]
                continue
            *whole, part = _filled(thoughts, self.rows(prompts))
            parts += whole
        parts.append(part)
        return [torch.tensor(sorted(part)) for part in parts]

    def runs(self, each: int) -> list[slice]:
        """Cuts the prompts where each has `each` rows that must be drawn together; at least one prompt a part."""
        begins, longest = [0], len(self.footprint.pieces)
        for at in range(1, longest):
            prompts = range(begins[-1], at + 1)
            if len(prompts) * each > self.rows(prompts):
                begins.append(at)
        return [slice(*ends) for ends in zip(begins, [*begins[1:], longest], strict=True)]

    @contextmanager
    def explaining(self, rows: int, prompts: Sequence[int]) -> Iterator[None]:
        """Says of an error for too little memory how many rows were drawn, and what to lower.

        Raises:
            BudgetError: In place of that error.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            columns = self.footprint.columns(prompts)
            value = f"which is {self.tokens}"
            if self.budget.tokens is None:
                value = f"which is not set ({self.tokens} were chosen from the free memory), below {rows * columns}"
            advice = f"Lower {self.budget.key}, {value}."
            if rows == 1:
                advice = (
                    f"{self.budget.key}, {value}, cannot be lowered further: lower the limit on new tokens or the "
                    "number of latents, or leave out long questions."
                )
            raise BudgetError(
                f"There is too little memory to draw {rows} answers at once, which hold {rows} x {columns} = "
                f"{rows * columns} tokens ({reason(error)[:200].rstrip('.')}). {advice}{NOW.kept}"
            ) from error


def check_holds(key: str, tokens: int | None, footprint: Footprint, rows: int = 1) -> None:
    """Makes sure that a number of tokens holds some rows of any prompt.

    Args:
        key: The user's name for the number.
        tokens: None: chosen from free memory, nothing is checked.
        rows: Rows that must be drawn together: one answer, or the thoughts of a question in a search.

    Raises:
        BudgetError: It does not, with the sum.
    """
    if tokens is None:
        return
    columns = [footprint.columns([at]) for at in range(len(footprint.pieces))]
    most = max(columns)
    if rows * most <= tokens:
        return
    sizes = sum(footprint.pieces[columns.index(most)])
    rest = most - sizes - footprint.spare
    between = f" + {rest} of further passes over latents" if rest > 0 else f" - {-rest} out of sight" if rest else ""
    said = f"{sizes} of the longest question with its latents{between} + {footprint.spare} new tokens = {most}"
    if rows > 1:
        said += f", for each of {rows} thoughts that grow together: {rows * most}"
    raise BudgetError(
        f"{key}={tokens} is less than one {'question' if rows > 1 else 'row'} takes: {said}. Set it to {rows * most} "
        "or more, or remove it, which chooses it from the free memory."
    )


def check_budget(
    key: str, tokens: int | None, config: LatentConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    """`check_holds` for one answer to the longest prompt, which all have as many latents.

    Raises:
        BudgetError: A row does not fit.
    """
    if tokens is not None and prompts:
        check_holds(key, tokens, Footprint.of(config, [max(prompts, key=len)], max_new_tokens))


def _token_bytes(model: Any, footprint: Footprint, questions: float) -> float:
    """Bytes that a token of a draw takes.

    Args:
        questions: Prompts for each answer.
    """
    config = model.config.get_text_config()
    vectors = (ROW_VECTORS + QUESTION_VECTORS * questions) * config.hidden_size
    logits = LOGITS * config.vocab_size / footprint.columns()
    return column_bytes(model) + torch.float32.itemsize * (vectors + logits)


def _by_prompt(rows: list[int], thought: list[int]) -> dict[int, list[list[int]]]:
    """The answers of each prompt, thought by thought, in the order in which prompts and thoughts come."""
    found: dict[int, dict[int, list[int]]] = {}
    for answer, (row, of) in enumerate(zip(rows, thought, strict=True)):
        found.setdefault(row, {}).setdefault(of, []).append(answer)
    return {row: list(thoughts.values()) for row, thoughts in found.items()}


def _filled(thoughts: list[list[int]], most: int) -> list[list[int]]:
    """Parts of at most `most` answers. A thought goes to the first part with room; a larger one than that is cut."""
    parts: list[list[int]] = []
    for answers in (of[begin : begin + most] for of in thoughts for begin in range(0, len(of), most)):
        home = next((part for part in parts if len(part) + len(answers) <= most), None)
        if home is None:
            parts.append(answers)
        else:
            home += answers
    return parts
