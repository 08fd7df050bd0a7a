"""Ragged batches with latents, and comparisons of gradients, for the tests of the engine."""

import torch

L, S, E = "L", "S", "E"  # <|latent|>, <|start-latent|>, <|end-latent|>
# Ragged on purpose: 0 to 4 latents, two blocks in a row, several latents after different questions.
ROWS = [
    [6, 7, 8, S, L, L, L, E, 9, 10],
    [6, 7, 8, 9, 10, 11, S, L, E, 9, 10, 11, 12],
    [6, 7, 8, 9],
    [7, S, L, L, E, 8, 9, S, L, L, E, 10],
    [10, L, 11, L, 12, 13],
]


def encode(reasoner, rows=ROWS):
    """Ids and labels of each row."""
    start, latent, end = reasoner.config.token_ids
    names = {S: start, L: latent, E: end}
    ids = [[names.get(token, token) for token in row] for row in rows]
    labels = [[t if t not in (start, end) and i > 1 else -100 for i, t in enumerate(row)] for row in ids]
    # The first latent of a row carries a label, as latent supervision gives it; the others do not.
    for row in labels:
        seen = False
        for i, token in enumerate(row):
            if token == latent:
                row[i] = 9 if not seen else -100
                seen = True
    return ids, labels


def pad(rows, value, side):
    width = max(map(len, rows)) + 2  # some padding even for the longest row
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([f + r if side == "left" else r + f for f, r in zip(fill, rows, strict=True)])


def batch(reasoner, side, rows=ROWS):
    ids, labels = encode(reasoner, rows)
    mask = [[1] * len(row) for row in ids]
    return {"input_ids": pad(ids, 0, side), "attention_mask": pad(mask, 0, side), "labels": pad(labels, -100, side)}


def unlabelled(inputs):
    return {key: value for key, value in inputs.items() if key != "labels"}


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs, tolerance=1e-5):
    assert set(ours) == set(theirs) and theirs
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-8, name
