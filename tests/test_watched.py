"""What RL watches: against the plain formula, and without a wait for the device."""

import bench_watch
import pytest
import torch

from neuralese.pipeline.latent.geometry import cosine_sums, effective_ranks
from neuralese.pipeline.latent.sampling.answers import Generated
from neuralese.pipeline.train.rl.metrics import (
    LatentGradients,
    ratio_sd,
    replay_metrics,
    reward_metrics,
    thought_metrics,
)
from neuralese.pipeline.train.watched import Watched, means


def by_svd(latents):
    """The effective rank of each place, from the singular values themselves."""
    found = []
    for place in latents.double().unbind(1):
        values = torch.linalg.svdvals(place - place.mean(0))
        shares = values / values.sum()
        found.append((-(shares * shares.log()).nan_to_num()).sum().exp())
    return torch.stack(found).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 3, 16), (8, 3, 40), (16, 2, 16), (2, 2, 5)], ids=str)
def test_effective_rank_by_gram_matrix_equals_that_by_svd(dtype, shape):
    latents = torch.randn(shape).to(dtype)
    assert effective_ranks(latents).tolist() == pytest.approx(by_svd(latents).tolist(), rel=1e-5)
    far = (latents.float() + 100).to(dtype)  # what all latents share is no rank
    assert effective_ranks(far).tolist() == pytest.approx(by_svd(far).tolist(), rel=1e-5)
    steep = latents * 2.0 ** -torch.arange(shape[2])  # singular values over many decades
    assert effective_ranks(steep).tolist() == pytest.approx(by_svd(steep).tolist(), rel=1e-5)


@pytest.mark.parametrize(("rollouts", "width"), [(64, 200), (200, 64)])
def test_effective_rank_of_few_directions_is_not_raised_by_rounding(rollouts, width):
    few = torch.randint(-3, 4, (rollouts, 1, 3)).double() @ torch.randint(-3, 4, (3, width)).double()
    assert effective_ranks(few).item() == pytest.approx(by_svd(few).item(), rel=1e-5)
    assert effective_ranks(few).item() <= 3


def test_effective_rank_of_latents_that_are_equal_zero_or_not_finite():
    latents = torch.randn(6, 4, 8)
    latents[:, 0] = 0.0
    latents[:, 1] = 0.1  # equal, and no binary fraction
    latents[2, 2, 3] = torch.inf
    ranks = effective_ranks(latents)
    assert ranks[:2].tolist() == [1.0, 1.0] and ranks[2].isnan()
    assert ranks[3].item() == pytest.approx(by_svd(latents[:, 3:]).item(), rel=1e-5)


def test_norms_of_gradients_are_averaged_over_the_rows_that_have_the_latent():
    watch = LatentGradients(3)
    latents = torch.zeros(3, 2, requires_grad=True)
    watch(latents, torch.tensor([0, 1, -1]))
    (latents * torch.tensor([[3.0, 4.0], [0.0, 2.0], [9.0, 9.0]])).sum().backward()
    other = torch.zeros(2, 2, requires_grad=True)
    watch(other, torch.tensor([1, 5]))  # beyond the places that are watched
    (other * torch.tensor([[6.0, 8.0], [1.0, 1.0]])).sum().backward()
    watch(torch.zeros(1, 2), torch.tensor([2]))  # without a gradient
    found = watch.take()
    assert {name: (float(a), float(b)) for name, (a, b) in found.items()} == {
        "latent/gradient_1": (5.0, 1.0),
        "latent/gradient_2": (12.0, 2.0),
        "latent/gradient_3": (0.0, 0.0),
    }
    assert set(watch.take().values()) == {(0.0, 0.0)}  # the same names for a process without gradients


def test_a_gradient_that_is_not_finite_stays_at_its_place():
    watch = LatentGradients(2)
    latents = torch.zeros(2, 2, requires_grad=True)
    watch(latents, torch.tensor([0, 1]))
    (latents * torch.tensor([[torch.nan, 1.0], [3.0, 4.0]])).sum().backward()
    (one, _), (two, _) = watch.take().values()
    assert one.isnan() and two == 5.0


def test_spread_of_ratios_is_that_of_the_answer_tokens():
    logps, old = torch.randn(4, 6), torch.randn(4, 6)
    mask = (torch.rand(4, 6) < 0.5).long()
    old[mask == 0] = -torch.inf  # padding counts nothing, whatever stands there
    inputs = {"old_per_token_logps": old, "completion_mask": mask}
    expected = (logps - old)[mask.bool()].exp().std(correction=0)
    assert ratio_sd(logps, inputs).item() == pytest.approx(expected.item(), rel=1e-5)
    inputs["completion_mask"] = torch.zeros_like(mask)
    assert ratio_sd(logps, inputs) == 0.0


def test_nothing_that_is_watched_reads_a_number_before_the_log():
    """On the meta device there are no numbers, so `.item()`, `.tolist()`, `bool()` and a mask as an index fail."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device="meta").sum().item()
    meta = {"device": "meta"}
    watched, watch = Watched(), LatentGradients(3)
    latents = torch.zeros(4, 8, requires_grad=True, **meta)
    watch(latents, torch.zeros(4, dtype=torch.long, **meta))
    latents.pow(2).sum().backward()
    for name, sums in watch.take().items():
        watched.add(name, *sums)
    logps = torch.zeros(4, 6, requires_grad=True, **meta)
    inputs = {name: torch.zeros(4, 6, **meta) for name in ("old_per_token_logps", "sampling_per_token_logps")}
    inputs["completion_mask"] = torch.zeros(4, 6, dtype=torch.long, **meta)
    watched.add("ratio/sd", ratio_sd(logps, inputs))
    watched.add_all(replay_metrics(logps, inputs))
    rewards = torch.zeros(2, 4, **meta)
    watched.add_all(reward_metrics(rewards, rewards.bool(), 2))
    thoughts, rows = torch.zeros(4, 3, 8, **meta), torch.tensor([0, 0, 1, 1])  # rows and answers are on the CPU
    drawn = Generated([[1]] * 4, logps, thoughts, rows, rows)
    watched.add_all(thought_metrics(drawn, rows, 1.0))
    watched.add("latent/cosine", *cosine_sums(thoughts, rows))
    totals = {name: value for (kind, name), value in watched.take().items() if kind == "total"}
    assert len(totals) == 16
    assert [name for name, value in totals.items() if not isinstance(value, torch.Tensor)] == ["rollout/distinct"]


def test_a_name_keeps_what_it_adds_up_to():
    watched = Watched()
    for value in (1.0, 2.0, torch.tensor(6.0)):
        watched.add("x", value)
    assert means({key: [float(value)] for key, value in watched.take().items()}) == {"x": 3.0}


def test_the_benchmark_of_watching_times_what_there_is():
    assert all(callable(getattr(owner, name)) for parts in bench_watch.WATCHING.values() for owner, name in parts)
