"""Latents as actions beside answer tokens, by hand."""

import torch

from neuralese.pipeline.latent.value_head import and_next
from neuralese.pipeline.train.rl.actions import latent_mask, with_actions
from neuralese.pipeline.train.rl.value_loss import action_values

LATENT = 9
ROLLOUTS = {
    "prompt_ids": torch.tensor([[1, 2, 9, 9], [0, 1, 2, 9], [1, 9, 9, 3]]),
    "completion_ids": torch.tensor([[5, 6], [5, 0], [7, 0]]),
    "completion_mask": torch.tensor([[1, 1], [1, 0], [0, 0]]),  # the last answer is masked out
}


def test_a_rollout_has_the_latents_of_its_question_unless_it_is_masked_out():
    assert latent_mask(ROLLOUTS, LATENT, 3).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_latents_follow_the_answer_tokens():
    is_latent = latent_mask(ROLLOUTS, LATENT, 2)
    given = ROLLOUTS | {
        "advantages": torch.tensor([1.0, 2.0, 3.0]),
        "latent_advantages": torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]),
        "old_per_token_logps": torch.full((3, 2), -1.0),
        "old_latent_logps": torch.full((3, 2), -7.0),
        "ref_per_token_logps": torch.full((3, 2), -2.0),
    }
    extended = with_actions(given, is_latent, "latent")
    assert extended["completion_ids"].tolist() == [[5, 6, 0, 0], [5, 0, 0, 0], [7, 0, 0, 0]]
    assert extended["completion_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert torch.allclose(extended["advantages"][1], torch.tensor([2.0, 2.0, 0.2, 0.2]))
    assert extended["old_per_token_logps"][0].tolist() == [-1.0, -1.0, -7.0, -7.0]
    assert extended["ref_per_token_logps"][0].tolist() == [-2.0, -2.0, 0.0, 0.0]
    assert given["completion_ids"].shape == (3, 2)  # the batch of the replay is left as it was
    assert with_actions(ROLLOUTS, is_latent, "latent").keys() == ROLLOUTS.keys()


def test_the_value_of_an_action_is_that_of_the_state_before_it():
    """Columns 0 to 5 have the values 10 to 15. A latent in column 2 is made from the state of column 1."""
    state_values = torch.arange(10.0, 16.0).expand(3, 6)
    is_latent = ROLLOUTS["prompt_ids"] == LATENT
    found = action_values(state_values, is_latent, answers=2, most_latents=2)
    assert found.tolist() == [[11, 12, 13, 14], [12, 0, 13, 14], [10, 11, 13, 14]]


def test_a_decision_to_stop_has_the_value_of_the_state_after_the_last_latent():
    """Latents in columns 2 and 3, in 3, and in 1 and 2, of at most 3. The first row ends with its question."""
    state_values = torch.arange(10.0, 16.0).expand(3, 6)
    is_latent = ROLLOUTS["prompt_ids"] == LATENT
    found = action_values(state_values, is_latent, answers=2, most_latents=3, decides=True)
    assert found.tolist() == [[11, 12, 13, 13, 14], [12, 13, 0, 13, 14], [10, 11, 12, 13, 14]]
    full = action_values(state_values, is_latent, answers=2, most_latents=2, decides=True)
    assert full.tolist() == [[11, 12, 13, 14], [12, 13, 13, 14], [10, 11, 13, 14]]


def test_the_step_behind_a_thought():
    is_latent = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert and_next(is_latent).int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
