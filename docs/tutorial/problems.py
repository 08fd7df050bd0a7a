"""Writes train.jsonl and eval.jsonl into this folder: a ball lies under one of five cups, which are swapped ten times.

python problems.py
"""

import json
import random

CUPS = ["red", "blue", "green", "white", "black"]


def follow(ball: str, swaps: list[tuple[str, str]]) -> list[str]:
    """Where the ball is after each swap."""
    steps = []
    for first, other in swaps:
        ball = {first: other, other: first}.get(ball, ball)
        steps.append(ball)
    return steps


def told(ball: str, swaps: list[tuple[str, str]]) -> dict[str, object]:
    """A question, the steps to its answer, and the answer."""
    sentences = [f"The ball is under the {ball} cup.", *(f"Swap {first} and {other}." for first, other in swaps)]
    steps = follow(ball, swaps)
    return {"question": " ".join(sentences), "steps": steps, "answer": steps[-1]}


def problem(draw: random.Random, number: int = 10) -> tuple[str, list[tuple[str, str]]]:
    """Where the ball is at first, and the swaps, of which most move it."""
    start = ball = draw.choice(CUPS)
    swaps: list[tuple[str, str]] = []
    for _ in range(number):
        first = ball if draw.random() < 0.7 else draw.choice([cup for cup in CUPS if cup != ball])
        other = draw.choice([cup for cup in CUPS if cup != first])
        one, two = draw.sample([first, other], 2)
        swaps.append((one, two))
        (ball,) = follow(ball, swaps[-1:])
    return start, swaps


def with_another_start(start: str, swaps: list[tuple[str, str]]) -> dict[str, object]:
    """A problem, and for the audit the same with the ball under another cup at first. It ends elsewhere, too."""
    elsewhere = CUPS[(CUPS.index(start) + 1) % len(CUPS)]
    return {**told(start, swaps), "counterfactual": told(elsewhere, swaps)}


if __name__ == "__main__":
    draw = random.Random(0)
    for file, size, row in (("train.jsonl", 20000, told), ("eval.jsonl", 200, with_another_start)):
        with open(file, "w") as lines:
            lines.writelines(json.dumps(row(*problem(draw))) + "\n" for _ in range(size))
