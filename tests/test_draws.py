"""Random numbers by coordinates: the published generator, a number for a place, and statistics that can fail."""

import itertools
import math

import pytest
import reference
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from neuralese.pipeline.latent import philox
from neuralese.pipeline.latent.noise import LatentDraws
from neuralese.pipeline.latent.philox import Stream, new_seeds, normal, philox4x32, uniform

# Counter, key and words of "philox4x32 10" in tests/kat_vectors of https://github.com/DEShawResearch/random123.
KNOWN = [
    "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
]
SEEDS = torch.tensor([1, 2, 2**62 - 1, 2**33 + 1, -7, 7, 0, -(2**63)])
KINDS = {"normal": normal, "uniform": uniform}


def words_of(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("known", KNOWN)
def test_philox_gives_the_published_words(known):
    numbers = words_of(known)
    assert reference.philox4x32(numbers[:4], numbers[4:6]) == tuple(numbers[6:])
    words = [torch.tensor([word]) for word in numbers[:6]]
    assert [int(word) for word in philox4x32(tuple(words[:4]), tuple(words[4:]))] == numbers[6:]


def test_words_may_be_given_once_for_many_counters():
    """What broadcasts is what is multiplied out."""
    draws = torch.Generator().manual_seed(0)
    shapes = [(5,), (3, 1), (2, 1, 1), (), (2, 1, 1), (3, 1)]
    words = [torch.randint(2**32, shape, generator=draws) for shape in shapes]
    ours = torch.stack(philox4x32(tuple(words[:4]), tuple(words[4:])), -1)
    spread = [word.expand(2, 3, 5) for word in words]
    for place in itertools.product(range(2), range(3), range(5)):
        c0, c1, c2, c3, *key = (int(word[place]) for word in spread)
        assert tuple(ours[place].tolist()) == reference.philox4x32((c0, c1, c2, c3), key)


def naive(kind, seed, stream, first, second, count):
    """Numbers by their formula in Python's integers and double precision."""
    key = (seed % 2**32, seed >> 32 & 0xFFFFFFFF)
    blocks = [reference.philox4x32((block, first, second, int(stream)), key) for block in range(-(-count // 4))]
    if kind == "uniform":
        numbers = [(word // 2**9 + 0.5) / 2**23 for block in blocks for word in block]
    else:
        numbers = []
        for block in blocks:
            for radius, angle in (block[:2], block[2:]):
                size = math.sqrt(-2 * math.log((radius + 0.5) / 2**32))
                numbers += [size * turn(2 * math.pi * angle / 2**32) for turn in (math.cos, math.sin)]
    return torch.tensor(numbers[:count], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", Stream)
def test_a_number_is_the_formula_of_its_coordinates(kind, stream):
    latent, loop = torch.tensor([0, 3]), torch.tensor([[0], [1]])
    ours = KINDS[kind](SEEDS[:, None, None], stream, latent, loop, 10)
    assert ours.shape == (8, 2, 2, 10) and ours.dtype == torch.float32
    for row, i, j in itertools.product(range(8), range(2), range(2)):
        expected = naive(kind, int(SEEDS[row]), stream, int(latent[j]), int(loop[i]), 10)
        error = (ours[row, i, j].double() - expected).abs().max()
        assert error == 0 if kind == "uniform" else error < 2e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", [1, 7, 2**16])
def test_a_number_does_not_depend_on_what_else_is_drawn(monkeypatch, kind, blocks):
    """Not on rows, their order, how many are made at once, latents, dimensions, autocast or the default dtype."""
    make = KINDS[kind]
    whole = make(SEEDS[:, None], Stream.LATENT_NORMAL, torch.arange(6), 0, 97)
    monkeypatch.setattr(philox, "CPU_BLOCKS", blocks)
    order = torch.tensor([5, 0, 7, 3])
    assert torch.equal(make(SEEDS[order, None], Stream.LATENT_NORMAL, torch.arange(6), 0, 97), whole[order])
    for latent in range(6):
        one = make(SEEDS[2:3], Stream.LATENT_NORMAL, latent, 0, 41)
        assert torch.equal(one[0], whole[2, latent, :41])
    number = torch.arange(8) % 6
    own = make(SEEDS, Stream.LATENT_NORMAL, number, 0, 97)
    assert torch.equal(own, whole[torch.arange(8), number])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make(SEEDS, Stream.LATENT_NORMAL, number, 0, 97), own)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(make(SEEDS, Stream.LATENT_NORMAL, number, 0, 97), own)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(make(SEEDS[:0], Stream.LATENT_NORMAL, 0, 0, 5), torch.empty(0, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_loops_have_draws_of_their_own_and_the_first_is_that_of_latents_without_loops(kind):
    looped = getattr(LatentDraws(SEEDS, 4, 9, loops=3), kind)()
    assert looped.shape == (8, 3, 4, 9)
    assert torch.equal(looped[:, 0], getattr(LatentDraws(SEEDS, 4, 9), kind)())
    assert torch.equal(looped[:, :2, :2], getattr(LatentDraws(SEEDS, 2, 9, loops=2), kind)())
    shared = getattr(LatentDraws(SEEDS, 4, 9, loops=3), kind)(per_rollout=True)
    assert shared.shape == (8, 1, 1, 9)
    assert torch.equal(shared[:, 0], getattr(LatentDraws(SEEDS, 2, 9), kind)(per_rollout=True))


def test_opposite_seeds_mirror_each_other_exactly():
    for options, loops in itertools.product(({}, {"per_rollout": True}), (None, 2)):
        plus, minus = LatentDraws(SEEDS[:4], 6, 999, loops), LatentDraws(-SEEDS[:4], 6, 999, loops)
        assert torch.equal(plus.normal(**options), -minus.normal(**options))
        assert torch.equal(plus.uniform(**options).double() + minus.uniform(**options).double(),
                           torch.ones_like(plus.uniform(**options), dtype=torch.float64))  # fmt: skip


def test_uniform_numbers_leave_out_both_ends(monkeypatch):
    """At the least and the greatest word, and at those beside the middle."""
    for word, expected in ((0, 2**-24), (2**32 - 1, 1 - 2**-24), (2**31, 0.5 + 2**-24), (2**31 - 1, 0.5 - 2**-24)):
        monkeypatch.setattr(philox, "philox4x32", lambda *_, word=word: (torch.tensor([[word]]),) * 4)
        assert uniform(torch.tensor([1]), Stream.TOKEN, 0, 0, 4).tolist() == [[expected] * 4]


def test_normal_numbers_are_finite_at_the_ends(monkeypatch):
    monkeypatch.setattr(philox, "philox4x32", lambda *_: (torch.tensor([[0]]),) * 4)
    largest = math.sqrt(2 * 33 * math.log(2))
    assert normal(torch.tensor([1]), Stream.TOKEN, 0, 0, 4).tolist() == [[pytest.approx(largest), 0.0] * 2]
    monkeypatch.setattr(philox, "philox4x32", lambda *_: (torch.tensor([[2**32 - 1]]),) * 4)
    assert normal(torch.tensor([1]), Stream.TOKEN, 0, 0, 4).abs().max() == 0


def test_no_two_coordinates_share_a_counter(monkeypatch):
    """Of noise of either kind, of a latent, of a rollout, of loops, of tokens, and of the thoughts of a search."""
    seen, original = [], philox.philox4x32

    def watched(counter, key):
        shape = torch.broadcast_shapes(*(word.shape for word in (*counter, *key)))
        seen.extend(zip(*(word.expand(shape).flatten().tolist() for word in (*counter, *key)), strict=True))
        return original(counter, key)

    monkeypatch.setattr(philox, "philox4x32", watched)
    seeds = torch.tensor([1, 2, 2**32 + 1, 2**61])
    draws = LatentDraws(seeds, 5, 12, loops=3)
    for per_rollout in (False, True):
        draws.normal(per_rollout), draws.uniform(per_rollout)
    for number in range(3):
        uniform(torch.cat([seeds, -seeds]), Stream.TOKEN, number, 0, 12)
    new_seeds(torch.cat([seeds, -seeds]), Stream.THOUGHT, 7)
    assert len(seen) == len(set(seen)) == 4 * (2 * (5 * 3 + 1) * 3) + 8 * 3 * 3 + 8 * 7


def test_new_seeds_come_from_theirs_alone():
    made = new_seeds(SEEDS, Stream.THOUGHT, 9)
    assert torch.equal(new_seeds(SEEDS[[3]], Stream.THOUGHT, 4)[0], made[3, :4])
    assert len(made.unique()) == 72 and made.min() >= 0 and 2**60 < made.max() < 2**62
    high, low, *_ = reference.philox4x32((4, 0, 0, int(Stream.THOUGHT)), (1, 2))
    assert int(made[3, 4]) == (high << 32 | low) % 2**62  # 2**33 + 1


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_take_as_many_operations_as_two_and_stay_on_their_device(kind):
    calls = []
    for count in (2, 1000):
        with Counted() as counted:
            getattr(LatentDraws(torch.arange(count), 4, 32), kind)()
        calls.append(counted.calls)
    assert calls[0] == calls[1]
    # On the device meta, nothing could be read back, and nothing of the CPU could be mixed in.
    drawn = getattr(LatentDraws(torch.arange(5, device="meta"), 4, 32, loops=2), kind)()
    assert drawn.device.type == "meta" and drawn.shape == (5, 2, 4, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_what_a_cpu_draws():
    here, there = LatentDraws(SEEDS, 6, 4096), LatentDraws(SEEDS.cuda(), 6, 4096)
    assert torch.equal(there.uniform().cpu(), here.uniform())
    assert torch.allclose(there.normal().cpu(), here.normal(), rtol=0, atol=2e-6)
    assert torch.equal(new_seeds(SEEDS.cuda(), Stream.THOUGHT, 9).cpu(), new_seeds(SEEDS, Stream.THOUGHT, 9))


def test_the_numbers_have_their_distribution():
    """Half a million of each: Kolmogorov-Smirnov, and moments within 4.5 standard errors."""
    draws = LatentDraws(torch.arange(1, 101), 5, 1000)
    z, u = draws.normal().double().flatten(), draws.uniform().double().flatten()
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-4 and stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    count = len(z)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # E z^2k is 1, 3, 15, 105
        assert abs(z.pow(power).mean() - mean) < 4.5 * (variance / count) ** 0.5
    for power in (1, 2, 3):  # E u^k is 1 / (k + 1)
        variance = 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs(u.pow(power).mean() - 1 / (power + 1)) < 4.5 * (variance / count) ** 0.5
    beyond = 2 * stats.norm.sf(4.0) * count  # 32 of them
    assert abs((z.abs() > 4).sum() - beyond) < 4.5 * beyond**0.5
    bits = (u[:, None] * 2 ** torch.arange(1, 24)).floor() % 2
    assert ((bits.mean(0) - 0.5).abs() < 4.5 * 0.5 / count**0.5).all()


def neighbours():
    """Pairs of numbers that differ by one in one coordinate, by name."""
    seeds = torch.arange(1, 2001)
    z = LatentDraws(seeds, 4, 32, loops=2).normal()
    tokens = [uniform(seeds, Stream.TOKEN, number, 0, 32) for number in (0, 1)]
    latent = LatentDraws(seeds, 4, 32)
    rollout = LatentDraws(seeds, 1, 128).normal(per_rollout=True)
    return {
        "seed": (z[1:], z[:-1]),
        "bit 32 of the seed": (latent.normal(), LatentDraws(seeds + 2**32, 4, 32).normal()),
        "bit 61 of the seed": (latent.normal(), LatentDraws(seeds + 2**61, 4, 32).normal()),
        "loop": (z[:, 1], z[:, 0]),
        "latent": (z[:, :, 1:], z[:, :, :-1]),
        "dimension": (z[..., 1:], z[..., :-1]),
        "block": (z[..., 4:], z[..., :-4]),
        "normal and uniform": (latent.normal(), latent.uniform()),
        "latent and rollout": (latent.normal().flatten(1), rollout.flatten(1)),
        "number": (tokens[1], tokens[0]),
        "sign, for tokens": (tokens[0], uniform(-seeds, Stream.TOKEN, 0, 0, 32)),
        "noise and tokens": (latent.uniform()[:, 0], tokens[0]),
    }


@pytest.mark.parametrize("shape", ["as they are", "their sizes"])
def test_numbers_beside_each_other_are_not_correlated(shape):
    """Over 64,000 to 480,000 pairs; of two numbers and of their distances from the middle."""
    for name, (one, other) in neighbours().items():
        pair = torch.stack([one.flatten(), other.flatten()]).double()
        if shape == "their sizes":
            pair = (pair - pair.mean(1, keepdim=True)).abs()
        assert abs(torch.corrcoef(pair)[0, 1]) < 4.5 / pair.size(1) ** 0.5, name
