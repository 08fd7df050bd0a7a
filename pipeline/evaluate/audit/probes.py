"""Linear probes: what a latent says about the intermediate results, as accuracy and as bits.

A probe is multinomial logistic regression from one latent to one step. It is fitted on some problems and asked about
others, in turns (`FOLDS`), so that every problem is predicted by a probe that has not seen it.

Information: for any q, I(z; step) = H(step) − H(step | z) ≥ H(step) + E log2 q(step | z). With the probe's predictions
of unseen problems as q, the right side is a lower bound on what the latent says about the step (Barber and Agakov,
2003); a better probe would find more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor

from ...statistics.intervals import Mean

FOLDS = 4
# Results that occur less often share one class: a probe cannot learn what it is shown once.
RARE = 8
# Weight of ‖W‖²/2 beside the mean cross-entropy, on standardised latents.
PENALTY = 3e-3
# Largest entry of the gradient at which a fit is done, and iterations, of which fits take far fewer.
TOLERANCE = 1e-7
ITERATIONS = 10_000
# Problems with a step below which it is not probed.
MINIMUM_PROBLEMS = 40


@dataclass(frozen=True)
class Probe:
    """What one latent says about one step. Places and steps count from 1.

    Attributes:
        accuracy: Of unseen problems.
        majority: Accuracy of always naming the most common result.
        shuffled: Accuracy of the same probe where every problem has the result of another: what fitting alone gives.
        entropy: H(step) in bits, of the results as they occur (an underestimate, by about (classes − 1) / 2n nats).
        bits: Lower bound on the information in bits, at least 0.
        classes: Different results, rare ones counted as one.
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
    """The intermediate result that a step ends with: what stands after its last `=`, else the step itself.

    GSM8K-Aug writes `<<48/2=24>>`, of which the expression names the question's numbers and only the result is new.
    """
    return step.rsplit("=", 1)[-1].strip(" <>.")


def classes_of(results: Sequence[str]) -> np.ndarray:
    """Class of each result (n,), the most common 0; all that occur less than `RARE` times share the last class."""
    counts = Counter(results).most_common()
    common = [result for result, count in counts if count >= RARE]
    number = {result: index for index, result in enumerate(common)}
    return np.array([number.get(result, len(common)) for result in results])


def probe_steps(
    latents: Float[Tensor, "P L d"],
    counts: Int[Tensor, " P"],
    steps: Sequence[Sequence[str]],
    resamples: int,
    seed: int,
) -> list[Probe]:
    """Probes every latent for every step, where enough problems have both.

    Args:
        counts: Latents of each problem.
        steps: The text steps of each problem.
        resamples: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    found = []
    for place in range(latents.size(1)):
        for step in range(max(map(len, steps), default=0)):
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
    """Log-probabilities in nats (n, C) of each class, each row by a probe that was fitted without the row's fold.

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
        weight: (d, S) of the S classes that it was shown.
        bias: (S,)
        seen: (S,) these classes, ascending.
        number: C, all classes there are.
        problems: n, that it was fitted to.
    """

    weight: np.ndarray
    bias: np.ndarray
    seen: np.ndarray
    number: int
    problems: int

    def logprobs(self, inputs: np.ndarray) -> np.ndarray:
        """Log-probabilities (m, C) of inputs (m, d).

        A class that the probe was never shown gets 1 / (n + C), what one count added to each class would give it, so
        that one rare result costs a finite number of bits.
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
    # Of two classes scikit-learn fits one column w, which stands for (−w/2, w/2): ‖W‖² = ‖w‖²/2.
    share = 2 if len(seen) == 2 else 1
    model = LogisticRegression(C=share / (PENALTY * n), tol=TOLERANCE, max_iter=ITERATIONS).fit(inputs, labels)
    weight, bias = model.coef_.T, model.intercept_
    if len(seen) == 2:
        weight, bias = np.hstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Fitted(weight, bias, seen, number, n)
