"""How the reward of a rollout becomes a gradient of its latents: a file for each estimator, registered in `ESTIMATORS`.

With x the question, z_k the latents, o the answer, the estimators differ in what counts as an action: see `replay`,
`score_function` and `mix`.

The size of the noise counts as given in all of them: no gradient flows into rms(z). `replay`, `score_function` and
`mix` are unbiased on-policy where that size has no parameters: under `norm_matched`, whose latents all have the norm of
the embeddings, and for noise that does not use it. Elsewhere they are the gradient of the expected reward under noise
of a fixed size (docs/algorithm.md says how far that is off).
"""

from __future__ import annotations

from ....latent.noise import Noise
from .base import Estimator, EstimatorError
from .mix import parse_mix
from .replay import REPLAY, replayed_logps
from .score_function import (
    SCORE_FUNCTION,
    SCORE_FUNCTION_MEAN,
    SCORE_FUNCTION_RSQRT_D,
    density_logps,
    drawn_densities,
)

__all__ = [
    "ESTIMATORS",
    "REPLAY",
    "Estimator",
    "EstimatorError",
    "check_estimator",
    "density_logps",
    "drawn_densities",
    "parse_estimator",
    "replayed_logps",
]

ESTIMATORS = {
    estimator.name: estimator for estimator in (REPLAY, SCORE_FUNCTION, SCORE_FUNCTION_RSQRT_D, SCORE_FUNCTION_MEAN)
}


def parse_estimator(spec: str) -> Estimator:
    """Reads a name of `ESTIMATORS`, or `mix:a`.

    Raises:
        EstimatorError: Anything else.
    """
    found = ESTIMATORS.get(spec) or parse_mix(spec)
    if found is None:
        raise EstimatorError(f"Unknown estimator {spec!r}. Write {', '.join(ESTIMATORS)} or mix:a, a in 0..1.")
    return found


def check_estimator(estimator: Estimator, noise: Noise | None, mode: str) -> None:
    """Makes sure that latents have the density that an estimator may need.

    Args:
        mode: How latents are made, see `LatentConfig.mode`.

    Raises:
        EstimatorError: Latents without a density for an estimator that needs one.
    """
    if not estimator.uses_density:
        return
    if noise is None or not noise.has_density or noise.first_only:
        raise EstimatorError(
            f"The estimator {estimator.name} needs noise with a density on every latent (gaussian or learned), but the "
            f"noise is {noise}. Change one of the two."
        )
    if mode != "sequential":
        raise EstimatorError(
            f"The estimator {estimator.name} needs latents made one after the other: a latent that is made anew in "
            f"every pass has no density of its own. Set rl.estimator=replay, or leave latent.mode={mode}."
        )
