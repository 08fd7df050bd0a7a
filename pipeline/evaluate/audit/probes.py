"""Linear probes: what a latent says about the intermediate results, as accuracy and as bits.

A probe is a multinomial logistic regression from one latent to the result of one step. Problems are split into folds.
Each fold is predicted by a probe that was fitted on the others, so that no probe has seen the problems it predicts.

Information: for any q, I(z; step) = H(step) − H(step | z) ≥ H(step) + E log2 q(step | z). With the probe's predictions
of unseen problems as q, the right side is a lower bound on what the latent says about the step (Barber and Agakov,
2003). A better probe may find more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from ...statistics.intervals import Mean

FOLDS = 4
# Results that occur less often share one class: a probe cannot learn a result that it is shown once.
RARE = 8
# Weight of ‖W‖²/2 beside the mean cross-entropy, on standardised latents.
PENALTY = 3e-3
# A fit ends when the largest entry of the gradient is below this. Fits take far fewer iterations than allowed.
TOLERANCE = 1e-7
ITERATIONS = 10_000
# Steps that fewer problems have are not probed.
MINIMUM_PROBLEMS = 40


@dataclass(frozen=True)
class Probe:
    """What one latent says about one step. Both are counted from 1.

    Attributes:
        accuracy: On unseen problems.
        majority: Accuracy of always naming the most common result.
        shuffled: Accuracy of the same probe when results are shuffled among problems: what fitting alone gives.
        entropy: H(step) in bits, from the frequencies of results (too low by about (classes − 1) / 2n nats).
        bits: Lower bound on the information in bits, at least 0.
        classes: Number of different results; rare ones count as one.
    """

    latent: int
    step: int
    accuracy: Mean
    majority: float
    shuffled: float
    entropy: float
    bits: Mean
    classes: int


def result_of(step: str) -> str:
    """The intermediate result of a step: the text after its last `=`, or the whole step without one.

    GSM8K-Aug writes `<<48/2=24>>`. The expression repeats numbers of the question; only the result is new.
    """
    return step.rsplit("=", 1)[-1].strip(" <>.")


def classes_of(results: Sequence[str]) -> np.ndarray:
    """Class of each result (n,). The most common result is class 0; results rarer than `RARE` share the last class."""
    counts = Counter(results).most_common()
    common = [result for result, count in counts if count >= RARE]
    number = {result: index for index, result in enumerate(common)}
    return np.array([number.get(result, len(common)) for result in results])


@threadpool_limits.wrap(limits=1)  # fits are small: threads that wait for each other made them 20 times slower
def probe_steps(
    latents: Float[Tensor, "P L d"],
    counts: Int[Tensor, " P"],
    steps: Sequence[Sequence[str]],
    resamples: int,
    seed: int,
    block: int | None = None,
) -> list[Probe]:
    """Probes every latent for every step that enough problems have together with that latent.

    Args:
        counts: Latents of each problem.
        steps: The text steps of each problem.
        resamples: Of the bootstrap.
        block: Latents of a step: probe each for its own step alone, since there are many. None: for all steps.
    """
    rng = np.random.default_rng(seed)
    found = []
    for place in range(latents.size(1)):
        for step in range(max(map(len, steps), default=0)):
            if block is not None and place // block != step:
                continue
            rows = [row for row in range(len(steps)) if len(steps[row]) > step and counts[row] > place]
            if len(rows) < MINIMUM_PROBLEMS:
                continue
            labels = classes_of([result_of(steps[row][step]) for row in rows])
            if len(set(labels)) > 1:
                found.append(_probe(latents[rows, place], labels, place + 1, step + 1, resamples, rng))
    return found


def _probe(
    inputs: Tensor, labels: np.ndarray, latent: int, step: int, resamples: int, rng: np.random.Generator
) -> Probe:
    folds = rng.permutation(len(labels)) % FOLDS
    logprobs = held_out_logprobs(inputs, labels, folds)  # (n, C)
    right = logprobs.argmax(1) == labels
    others = rng.permutation(labels)
    shuffled = held_out_logprobs(inputs, others, folds).argmax(1) == others
    frequency = np.bincount(labels) / len(labels)
    frequency = frequency[frequency > 0]
    entropy = float(-(frequency * np.log2(frequency)).sum())
    gained = entropy + logprobs[np.arange(len(labels)), labels] / np.log(2)  # (n,) bits
    bits = Mean.plain(gained, resamples)
    low, high = bits.ci95
    return Probe(
        latent,
        step,
        accuracy=Mean.share(right, resamples),
        majority=float(frequency.max()),
        shuffled=float(shuffled.mean()),
        entropy=entropy,
        bits=Mean(max(bits.value, 0.0), (max(low, 0.0), max(high, 0.0)), bits.n),
        classes=len(frequency),
    )


def held_out_logprobs(inputs: Tensor, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Log-probabilities in nats (n, C) of each class. The probe of a row was fitted without the row's fold.

    Args:
        inputs: (n, d).
        labels: (n,) classes.
        folds: (n,) fold of each row.
    """
    number = int(labels.max()) + 1
    values = inputs.double().numpy()
    result = np.zeros((len(labels), number))
    for fold in np.unique(folds):
        test = folds == fold
        train = values[~test]
        mean, std = train.mean(0), train.std(0).clip(1e-6)
        probe = fit((train - mean) / std, labels[~test], number)
        result[test] = probe.logprobs((values[test] - mean) / std)
    return result


@dataclass(frozen=True)
class Fitted:
    """A fitted probe.

    Attributes:
        weight: (d, S) for the S classes that occur among its problems.
        bias: (S,)
        seen: (S,) these classes, ascending.
        number: C, the number of all classes.
        problems: n, the number of problems that it was fitted to.
    """

    weight: np.ndarray
    bias: np.ndarray
    seen: np.ndarray
    number: int
    problems: int

    def logprobs(self, inputs: np.ndarray) -> np.ndarray:
        """Log-probabilities (m, C) of inputs (m, d).

        A class that does not occur among the probe's problems gets probability 1 / (n + C), as if one count were added
        to each class. So a rare result costs a finite number of bits.
        """
        unseen = 1 / (self.problems + self.number)
        result = np.full((len(inputs), self.number), np.log(unseen))
        left = 1 - (self.number - len(self.seen)) * unseen
        result[:, self.seen] = log_softmax(inputs @ self.weight + self.bias, axis=1) + np.log(left)
        return result


def fit(inputs: np.ndarray, labels: np.ndarray, number: int) -> Fitted:
    """Multinomial logistic regression: mean cross-entropy + PENALTY/2 · ‖W‖², to its minimum in float64.

    Args:
        inputs: (n, d) float64.
        labels: (n,) classes below `number`.
    """
    seen, n = np.unique(labels), len(labels)
    if len(seen) == 1:
        return Fitted(np.zeros((inputs.shape[1], 1)), np.zeros(1), seen, number, n)
    # For two classes scikit-learn fits one column w. It stands for (−w/2, w/2), so ‖W‖² = ‖w‖²/2.
    share = 2 if len(seen) == 2 else 1
    model = LogisticRegression(C=share / (PENALTY * n), tol=TOLERANCE, max_iter=ITERATIONS).fit(inputs, labels)
    weight, bias = model.coef_.T, model.intercept_
    if len(seen) == 2:
        weight, bias = np.hstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Fitted(weight, bias, seen, number, n)
