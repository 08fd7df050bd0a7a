"""Naive versions of what the package does fast: no cache, no batch, one row and one token at a time."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from neuralese.pipeline.latent.mixin import LatentMixin


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al., SC 2011) of four and two integers, one block at a time."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def thought(model, hidden):
    """The latent (d,) that a source makes of one hidden state (d,), by its formula."""
    section = model.latent_config
    embed, rms = model.get_input_embeddings(), section.embedding_rms
    if section.thought_source == "raw":
        return hidden
    if section.thought_source == "norm_matched":
        return hidden / hidden.pow(2).mean().sqrt() * rms
    if section.thought_source in ("projection", "gaussian_head"):
        first, _, second, norm = model.thought_source.map
        z = second.weight @ F.gelu(first.weight @ hidden + first.bias) + second.bias
        z = (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt()
        return (z * norm.weight + norm.bias) * rms
    if section.thought_source == "soft_vocabulary":
        logits = model.get_output_embeddings().weight @ hidden
        logits[list(section.token_ids)] = -1e30
        best = logits.argsort(descending=True)[: section.thought_options.get("top_k", 10)]
        weights = (logits[best] / section.thought_options.get("temperature", 1.0)).exp()
        return sum(w * embed.weight[v] for w, v in zip(weights / weights.sum(), best, strict=True))
    assert section.thought_source in ("pause", "pause_multi")
    return embed.weight[section.token_ids[1]]


def sees(section, ids, i, j):
    """Whether position i of an unpadded row may attend to position j, by latent.window and latent.sees_question."""
    latents = [position for position, token in enumerate(ids) if token == section.token_ids[1]]
    if j > i:
        return False
    if not latents or i < latents[0]:
        return True  # the question
    if j < latents[0]:
        return section.sees_question or i == latents[0]
    so_far = [position for position in latents if position <= i]
    return section.window is None or j >= so_far[-section.window :][0]


def mask_of(model, ids):
    """The attention mask (1, 1, T, T) of an unpadded row, cell by cell; a dict by kind where layers differ."""
    config, low = model.config.get_text_config(), torch.finfo(model.dtype).min

    def mask(sliding):
        allowed = [
            [sees(model.latent_config, ids, i, j) and (sliding is None or i - j < sliding) for j in range(len(ids))]
            for i in range(len(ids))
        ]
        return torch.zeros(1, 1, len(ids), len(ids), dtype=model.dtype).masked_fill(~torch.tensor(allowed), low)

    kinds, sliding = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds is None:
        return mask(sliding)
    masks = {"full_attention": mask(None), "sliding_attention": mask(sliding)}
    return {kind: masks[kind] for kind in kinds} if len(set(kinds)) > 1 else masks[kinds[0]]


def hides(model):
    return model.latent_config.window is not None or not model.latent_config.sees_question


def output_of(model, inputs, ids, **options):
    """The trunk's output for the embeddings and latents (T, d) of one unpadded row."""
    mask = {"attention_mask": mask_of(model, ids)} if hides(model) else {}
    return model.base_model(inputs_embeds=inputs[None], use_cache=False, **mask, **options)


def states_of(model, inputs, ids):
    """Last hidden states (T, d) of one unpadded row."""
    return output_of(model, inputs, ids).last_hidden_state[0]


def logits_of(model, inputs, ids):
    """Logits (T, V) of one unpadded row."""
    mask = {"attention_mask": mask_of(model, ids)} if hides(model) else {}
    plain = super(LatentMixin, model).forward  # the architecture's own
    return plain(inputs_embeds=inputs[None], use_cache=False, **mask).logits[0]


def latent_forward(model, ids, *noise, **options):
    """Logits (T, V) and latents of one unpadded row; everything but the recurrence is the architecture's forward."""
    inputs = latent_inputs(model, ids, *noise, **options)
    latents = [inputs[i] for i, token in enumerate(ids) if token == model.latent_config.token_ids[1]]
    return logits_of(model, inputs, ids), latents


def latent_inputs(model, ids, epsilon=None, apply_noise=None, backprop_steps=None):
    """Embeddings and latents (T, d) of one unpadded row, recomputing the whole prefix for every latent."""
    latent_id = model.latent_config.token_ids[1]
    inputs = list(model.get_input_embeddings()(torch.tensor(ids)))
    made, count = 0, ids.count(latent_id)
    for position, token in enumerate(ids):
        if token == latent_id:
            last = states_of(model, torch.stack(inputs[:position]), ids[:position])[-1]
            latent = thought(model, last)[None]
            if epsilon is not None:
                latent = apply_noise(latent, epsilon[made][None])
            if backprop_steps is not None and made < count - backprop_steps:
                latent = latent.detach()
            made += 1
            inputs[position] = latent[0]
    return torch.stack(inputs)


def stop_decisions(model, inputs, ids, most):
    """Log-probs (decisions,) of what the stop head decided in one unpadded row, from its embeddings and latents (T, d).

    It went on after every latent but the last, and ended there unless the thought had `most` latents.
    """
    hidden = states_of(model, inputs, ids)
    places = [position for position, token in enumerate(ids) if token == model.latent_config.token_ids[1]]
    found = []
    for made, place in enumerate(places, 1):
        p = 1 / (1 + (-(model.stop_head.weight[0] @ hidden[place] + model.stop_head.bias[0])).exp())
        if made < most:
            found.append(p.log() if made == len(places) else (1 - p).log())
    return torch.stack(found)


def search(model, ids, draws, children, keep, apply_noise, judge):
    """The thoughts that a search ends with, as (score, latents (L, d)); every thought anew from the first token.

    draws: (most, L, d); thought j at latent t moves by draws[j, t] where it has siblings.
    """
    first = ids.index(model.latent_config.token_ids[1])

    def grown(path):
        prefix = ids[: first + len(path)]
        inputs = latent_inputs(model, prefix, torch.stack(path), apply_noise)
        score = judge(states_of(model, inputs, prefix)[None, first:])[0, -1].item() if judge is not None else 0.0
        return score, inputs[first:]

    paths = [[]]
    for turn, count in enumerate(children):
        paths = [path for path in paths for _ in range(count)]
        paths = [
            [*path, draws[j, turn] if count > 1 else torch.zeros_like(draws[j, turn])] for j, path in enumerate(paths)
        ]
        if keep is not None:
            paths = sorted(paths, key=lambda path: -grown(path)[0])[:keep]
    return [grown(path) for path in paths]


def jacobi_forward(model, ids, num_sweeps):
    """Logits (T, V) of one unpadded row whose latents are made in sweeps."""
    return model(inputs_embeds=jacobi_inputs(model, ids, num_sweeps)[None], use_cache=False).logits[0]


def jacobi_inputs(model, ids, num_sweeps):
    """Embeddings and latents (T, d) of one unpadded row; all latents anew in every sweep (arXiv 2506.18582)."""
    latent_id = model.latent_config.token_ids[1]
    inputs = list(model.get_input_embeddings()(torch.tensor(ids)))
    for _ in range(num_sweeps):
        states = model.base_model(inputs_embeds=torch.stack(inputs)[None], use_cache=False).last_hidden_state[0]
        inputs = [
            thought(model, states[position - 1]) if token == latent_id else inputs[position]
            for position, token in enumerate(ids)
        ]
    return torch.stack(inputs)


def looped_forward(model, ids, **options):
    """Logits (T, V) of one unpadded row whose latents are made in loops."""
    inputs = looped_inputs(model, ids, **options)
    return model(inputs_embeds=inputs[None], use_cache=False).logits[0]


def looped_inputs(model, ids, epsilon=None, apply_noise=None, backprop_steps=None):
    """Embeddings and latents (T, d) of one unpadded row after all loops (LOTUS, arXiv 2606.31779).

    epsilon: (R, L, d) for each loop and latent.
    """
    section = model.latent_config
    embeds = list(model.get_input_embeddings()(torch.tensor(ids)))
    places = [position for position, token in enumerate(ids) if token == section.token_ids[1]]
    inputs = embeds
    for loop in range(section.loops):
        states = model.base_model(inputs_embeds=torch.stack(inputs)[None], use_cache=False).last_hidden_state[0]
        inputs = list(embeds)
        for turn, place in enumerate(places):
            latent = thought(model, states[place])
            if epsilon is not None:
                latent = apply_noise(latent[None], epsilon[loop, turn][None])[0]
            latent = embeds[place] + latent if section.injection == "add" else latent
            constant = backprop_steps is not None and loop < section.loops - backprop_steps
            inputs[place] = latent.detach() if constant else latent
    return torch.stack(inputs)


def row_loss(logits, ids, labels, latent_id, supervision_weight):
    """Sum of the losses of one row's labels, from its logits (T, V)."""
    return sum(
        (supervision_weight if ids[position] == latent_id else 1.0)
        * F.cross_entropy(logits[position - 1], torch.tensor(labels[position]))
        for position in range(1, len(ids))
        if labels[position] != -100
    )


def latent_loss(model, rows, labels, supervision_weight, backprop_steps=None):
    """The training loss of a batch of unpadded rows, summed label by label."""
    latent_id = model.latent_config.token_ids[1]
    total, count = torch.zeros((), dtype=model.dtype), 0
    for ids, row_labels in zip(rows, labels, strict=True):
        if model.latent_config.loops is None:
            logits, _ = latent_forward(model, ids, backprop_steps=backprop_steps)
        else:
            logits = looped_forward(model, ids, backprop_steps=backprop_steps)
        total = total + row_loss(logits, ids, row_labels, latent_id, supervision_weight)
        count += sum(label != -100 for label in row_labels[1:])
    return total / count


def pass_at_k(right, k):
    """Share of all k-subsets of the samples that hold a right one."""
    subsets = list(itertools.combinations(right, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def quantile(values, share):
    """The value below which a share of the values lies, linear between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def uncertain(entropies, share):
    """Which tokens of rows (lists of entropies) are among the share of the most uncertain ones of all rows."""
    threshold = quantile([entropy for row in entropies for entropy in row], 1 - share)
    return [[entropy >= threshold for entropy in row] for row in entropies]


def clipped_policy_loss(logps, old_logps, advantages, level, epsilon):
    """-min(rho A, clip(rho) A) of each row of token log-probs, as a list of lists; one value a row for sequences.

    The ratio rho of a sequence is the geometric mean of those of its tokens (GSPO, arXiv 2507.18071).
    """
    rows = []
    for row, old, advantage in zip(logps, old_logps, advantages, strict=True):
        differences = [(new - before) for new, before in zip(row, old, strict=True)]
        if level == "sequence":
            differences = [sum(differences) / len(differences)]
        ratios = [difference.exp() for difference in differences]
        rows.append(
            [-torch.min(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage) for ratio in ratios]
        )
    return rows
