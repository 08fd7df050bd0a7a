"""Random numbers from their coordinates alone: the counter-based generator Philox4x32-10 in ordinary tensor operations.

A number is a function of a seed, of what it is for (`Stream`) and of three indices. Nothing is kept between two calls,
so that it does not matter what else is drawn, in which order, in which batch or on which device. All rows are drawn at
once, on the device of the seeds, and nothing is copied from or to it.

Integers and uniform numbers are equal on all devices. Normal numbers differ by the last bits of log, cos and sin there:
by at most 2e-6. (torch.func._random of torch 2.13 has a Philox of its own, but not on CPUs.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

import torch
from torch import Tensor

# Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011), and their Random123.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by: the golden ratio and √3 - 1
ROUNDS = 10
LOW = 0xFFFFFFFF

# Blocks of four numbers that are made at once: on a CPU for each thread, so that they stay in its cache. Elsewhere this
# bounds memory, to 100 bytes or so for each.
CPU_BLOCKS, BLOCKS = 2**16, 2**22

Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Stream(IntEnum):
    """What numbers are for. Numbers of two streams never come from the same counter, whatever the seed."""

    LATENT_NORMAL = 0
    LATENT_UNIFORM = 1
    ROLLOUT_NORMAL = 2
    ROLLOUT_UNIFORM = 3
    TOKEN = 4
    THOUGHT = 5
    STOP = 6


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10: four random words for each 128-bit counter and 64-bit key.

    All words are int64 tensors of values below 2^32, and they broadcast. Seed, latent and dimension are separate axes
    of it: the first rounds, in which they have not met yet, then cost next to nothing.
    """
    full = torch.broadcast_shapes(*(word.shape for word in (*counter, *key)))
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # int64 wraps around: all 64 bits are right
        c0, c1 = _mix(product1, c1, k0, full), product1
        c2, c3 = _mix(product0, c3, k1, full), product0
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    words = (c0, c1 & LOW, c2, c3 & LOW)
    return words[0].expand(full), words[1].expand(full), words[2].expand(full), words[3].expand(full)


def _mix(product: Tensor, word: Tensor, key: Tensor, full: torch.Size) -> Tensor:
    """The high half of a product, xor a word and a part of the key. The upper halves of what comes in do not count."""
    mixed = product >> 32
    for other in (word, key):
        mixed = mixed.bitwise_xor_(other) if mixed.shape == full else mixed ^ other
    return mixed.bitwise_and_(LOW)


def uniform(seeds: Tensor, stream: Stream, first: Tensor | int, second: Tensor | int, count: int) -> Tensor:
    """Uniform numbers (..., count) from (0, 1) in float32: odd multiples of 2^-24, so that 1 - u is exact and one too.

    Args:
        seeds: (...) int64, of either sign; all 64 bits count.
        first: (...) or one: an index below 2^32 that is part of the coordinates.
        second: Another one. The place of a number among the `count` is the third.
    """

    def convert(words: Words, numbers: Tensor) -> None:
        for place, word in enumerate(words):
            torch.mul((word >> 9).float().add_(0.5), 2.0**-23, out=numbers[..., place])

    return _numbers(convert, seeds, stream, first, second, count)


def normal(seeds: Tensor, stream: Stream, first: Tensor | int, second: Tensor | int, count: int) -> Tensor:
    """Standard normal numbers (..., count) in float32, at most 6.8 in size (Box and Muller, 1958).

    Two neighbours are the radius √(-2 log u), u = (w + ½) / 2^32, times the cosine and the sine of one angle.

    Args:
        seeds, first, second, count: As in `uniform`.
    """

    def convert(words: Words, numbers: Tensor) -> None:
        for place in (0, 2):
            radius = words[place].float().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
            angle = words[place + 1].float().mul_(2.0**-31 * math.pi)
            torch.mul(radius, angle.cos(), out=numbers[..., place])
            torch.mul(radius, angle.sin_(), out=numbers[..., place + 1])

    return _numbers(convert, seeds, stream, first, second, count)


def new_seeds(seeds: Tensor, stream: Stream, count: int) -> Tensor:
    """Seeds (B, count) from [0, 2^62) for each of seeds (B,)."""
    place = torch.arange(count, device=seeds.device)
    high, low, _, _ = philox4x32(_counter(stream, place, *(seeds.new_zeros(()),) * 2), _key(seeds.long()[:, None]))
    return (high << 32 | low) & (2**62 - 1)


def _key(seeds: Tensor) -> tuple[Tensor, Tensor]:
    return seeds & LOW, seeds >> 32 & LOW


def _counter(stream: Stream, block: Tensor, first: Tensor, second: Tensor) -> Words:
    return block, first, second, block.new_full((), int(stream))


def _numbers(
    convert: Callable[[Words, Tensor], None],
    seeds: Tensor,
    stream: Stream,
    first: Tensor | int,
    second: Tensor | int,
    count: int,
) -> Tensor:
    """Numbers (..., count), four of each block. `convert` writes those of words (..., blocks) into (..., blocks, 4)."""
    seeds = seeds.long()
    axes = [seeds, *(i if isinstance(i, Tensor) else seeds.new_full((), i) for i in (first, second))]
    shape = torch.broadcast_shapes(*(axis.shape for axis in axes))
    block = torch.arange(-(-count // 4), device=seeds.device)
    numbers = torch.empty(*shape, len(block), 4, dtype=torch.float32, device=seeds.device)
    size = max(1, math.prod(shape[1:]) * len(block))
    at_once = CPU_BLOCKS * torch.get_num_threads() if seeds.device.type == "cpu" else BLOCKS
    rows = max(1, at_once // size)
    for begin in range(0, shape[0], rows):
        part = slice(begin, begin + rows)
        # An axis is cut where it has rows; one that is the same for all rows is not.
        own = [axis[part] if axis.dim() == len(shape) and len(axis) > 1 else axis for axis in axes]
        key, i, j = (axis.unsqueeze(-1) for axis in own)
        convert(philox4x32(_counter(stream, block, i, j), _key(key)), numbers[part])
    return numbers.flatten(-2)[..., :count]
