"""How many columns of keys and values the passes of a thought need, where those that nothing sees again are freed.

This is inference: there the buffers do not grow with the thought. In training they hold the columns of all passes, as
the backward reads again what each pass has read.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor

from .columns import Visibility

# Columns that may gather before those in sight are moved together: more cost memory and attention, fewer cost moves.
SLACK = 32


class Room:
    """The columns of a decoder that forgets, pass by pass. All is known beforehand: no pass waits for the device.

    Attributes:
        in_sight: For each pass, and for the tokens after the passes, the most columns of a row that it may see.
    """

    def __init__(self, widths: list[int], visibility: Visibility, least_latents: int, spare: int) -> None:
        """
        Args:
            widths: Columns of each pass; that of the question comes first, then one for each latent.
            least_latents: Latents of the row that has the fewest.
            spare: Columns for the tokens after the passes.
        """
        self.widths, self.spare, count = widths, spare, len(widths)
        ends = [0, *accumulate(widths)]
        # The pass from which on no row sees its question; latents are aligned at the last pass.
        is_needed = visibility.sees_question or least_latents == 0
        self.without_question = math.inf if is_needed else count - least_latents + 1
        window = count if visibility.window is None else visibility.window
        self.in_sight = [0] + [
            ends[number] - ends[max(1, number - window)] + (widths[0] if number < self.without_question else 0)
            for number in range(1, count + 1)
        ]
        needed = [in_sight + width for in_sight, width in zip(self.in_sight, widths, strict=False)]
        self.most = list(accumulate(reversed(needed), max))[::-1]  # columns in sight of any pass from this one on

    @classmethod
    def of(cls, widths: list[int], visibility: Visibility | None, counts: Tensor, spare: int) -> Room | None:
        """None where all columns stay: all is seen, or a gradient will need what each pass has read.

        Args:
            counts: (B,) latents of each row.
        """
        if visibility is None or torch.is_grad_enabled():
            return None
        return cls(widths, visibility, int(counts.min()), spare)

    def capacity(self, number: int) -> int:
        """Columns of the buffers from pass `number` on, where it finds no more than those that it sees."""
        if number == len(self.widths):
            return self.in_sight[number] + self.spare
        all_to_come = self.in_sight[number] + sum(self.widths[number:])
        return min(self.most[number] + SLACK, all_to_come) + self.spare

    def is_short(self, number: int, used: int, capacity: int) -> bool:
        """Whether columns must be freed before pass `number`: the buffers are full, or the question is done with."""
        if number == self.without_question:
            return True
        return number < len(self.widths) and used + self.widths[number] > capacity - self.spare
