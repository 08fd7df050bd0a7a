"""Writes train.jsonl and eval.jsonl into this folder: a ball lies under one of five cups, which are swapped ten times.

python problems.py
"""

import json
import random

CUPS = ["red", "blue", "green", "white", "black"]


def problem(draw: random.Random, swaps: int = 10) -> dict[str, object]:
    """A question, where the ball is after each swap, and where it is at the end."""
    ball = draw.choice(CUPS)
    sentences, steps = [f"The ball is under the {ball} cup."], []
    for _ in range(swaps):
        first = ball if draw.random() < 0.7 else draw.choice([cup for cup in CUPS if cup != ball])
        other = draw.choice([cup for cup in CUPS if cup != first])
        pair = draw.sample([first, other], 2)
        sentences.append(f"Swap {pair[0]} and {pair[1]}.")
        ball = {first: other, other: first}.get(ball, ball)
        steps.append(ball)
    return {"question": " ".join(sentences), "steps": steps, "answer": ball}


if __name__ == "__main__":
    draw = random.Random(0)
    for file, size in (("train.jsonl", 20000), ("eval.jsonl", 200)):
        with open(file, "w") as lines:
            lines.writelines(json.dumps(problem(draw)) + "\n" for _ in range(size))
