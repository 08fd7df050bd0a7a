"""The latent reward model: its loss, its states, what it learns, and its command."""

import json

import pytest
import torch
from runs import tiny
from safetensors.torch import load_file, save_file
from test_cli import assert_one_paragraph, neuralese

from neuralese.data.errors import UserError
from neuralese.pipeline.evaluate.draw_samples import draw_samples
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.run.train import run
from neuralese.pipeline.scoring import latent_reward_training as training
from neuralese.pipeline.scoring.latent_reward import (
    LatentRewardConfig,
    LatentRewardError,
    LatentRewardModel,
    judge_thoughts,
    load_latent_reward,
    step_loss,
    thought_states,
)
from neuralese.pipeline.scoring.latent_reward_training import (
    Thoughts,
    draw_thoughts,
    kept_thoughts,
    train_latent_reward,
)
from neuralese.pipeline.scoring.sampling_setting import Search, Setting

OPTIONS = EvaluateSection(max_new_tokens=4, batch_size=8)


def test_the_loss_by_hand():
    scores = torch.tensor([[[0.0, 1.0], [0.0, 0.0], [0.0, -1.0]]])  # one question, three thoughts, two steps
    right = torch.tensor([[1.0, 0.5, 0.0]])
    first = torch.tensor(3.0).log()
    total = torch.tensor([1.0, 0.0, -1.0]).logsumexp(0)
    second = 2 / 3 * (total - 1) + 1 / 3 * total
    assert step_loss(scores, right).item() == pytest.approx(((first + second) / 2).item())


def test_scores_are_sums_over_the_steps():
    torch.manual_seed(0)
    model = LatentRewardModel(LatentRewardConfig(state_size=8, num_latents=3))
    torch.nn.init.normal_(model.place.weight)
    states = torch.randn(5, 3, 8)
    inner = model.first(model.norm(states)) + model.place.weight
    steps = model.last(torch.nn.functional.gelu(inner)).squeeze(-1)
    torch.testing.assert_close(model(states), torch.stack([steps[:, : t + 1].sum(1) for t in range(3)], 1))
    torch.testing.assert_close(model(states[:, :2]), model(states)[:, :2])  # of thoughts that are not done


@pytest.mark.parametrize("options", [{}, {"window": 1}, {"window": 2, "sees_question": False}])
def test_states_are_those_of_the_passes_that_made_the_latents(make, problems, options):
    """Each latent of a norm-matched source is the state before it, rescaled: the next one tells this one's state."""
    reasoner = make(num_latents=3, **options)
    questions = [problem.question for problem in problems[:3]]
    samples = reasoner.generate(questions, n=2, seed=3, max_new_tokens=2)
    states = thought_states(reasoner, questions, [sample.latents for sample in samples])
    latents = torch.cat([sample.latents for sample in samples])
    assert states.shape == latents.shape == (6, 3, 32)
    made = reasoner.model.thought_source(states[:, :-1], reasoner.model).latent
    torch.testing.assert_close(made, latents[:, 1:], atol=1e-5, rtol=1e-4)
    other = thought_states(reasoner, questions, [sample.latents * 0 for sample in samples])
    assert not torch.allclose(other, states, atol=1e-2)


def even(folder):
    """A scorer that random answers pass half the time."""
    file = folder / "even.py"
    file.write_text("def even(prompts, completions, **columns):\n    return [len(c) % 2 for c in completions]\n")
    return f"{file}:even"


def separable(questions=200, thoughts=6, places=2, size=8):
    """Right thoughts differ from wrong ones in one coordinate of their last state."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(questions, thoughts, places, size, generator=generator)
    right = (torch.rand(questions, thoughts, generator=generator) < 0.4).float()
    states[..., -1, 0] += 3 * right
    return Thoughts(states, right)


def test_it_learns_what_can_be_told_and_nothing_else():
    thoughts = separable()
    _, report = train_latent_reward(thoughts, 20, 3e-3, 0)
    assert report.chosen > 0.85 > 0.5 > report.mean and report.oracle >= report.chosen
    train, choosing, unseen = training._parts(thoughts, 0)
    assert report.mixed == (train.right.sum(1) % 6 != 0).sum() and len(choosing.right) == len(unseen.right) == 40
    assert report.mean == pytest.approx(unseen.right.mean().item())
    shuffled = Thoughts(thoughts.states, thoughts.right[:, torch.randperm(6)])
    found = [train_latent_reward(shuffled, epochs, 3e-3, 0) for epochs in range(1, 6)]
    _, choosing, unseen = training._parts(shuffled, 0)
    best = [training._chosen(model, choosing) for model, _ in found]
    assert best == sorted(best)  # the best epoch is kept, not the last
    assert [report.chosen for _, report in found] == [training._chosen(model, unseen) for model, _ in found]
    again, report_again = train_latent_reward(shuffled, 5, 3e-3, 0)
    assert report_again == found[-1][1] and isinstance(again, LatentRewardModel)


def test_each_problem_is_for_one_thing_whatever_their_order():
    thoughts = Thoughts(torch.arange(50.0)[:, None, None, None], torch.zeros(50, 2))
    parts = [part.states.flatten().tolist() for part in training._parts(thoughts, 0)]
    assert [len(part) for part in parts] == [30, 10, 10] and sorted([*parts[0], *parts[1], *parts[2]]) == list(
        range(50)
    )
    for held_out in parts[1:]:
        assert max(held_out) - min(held_out) > 20  # not a run of the first ones
    assert parts != [part.states.flatten().tolist() for part in training._parts(thoughts, 1)]


def test_what_is_reported_of_labels_that_nothing_can_tell_is_chance():
    """The best of 20 epochs on the 40 problems that choose it lies 0.1 above chance; on others it does not."""
    chosen, reported = [], []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        right = (torch.rand(200, 6, generator=generator) < 0.5).float()
        thoughts = Thoughts(torch.randn(200, 6, 2, 8, generator=generator), right)
        model, report = train_latent_reward(thoughts, 20, 1e-2, seed)
        chosen.append(training._chosen(model, training._parts(thoughts, seed)[1]))
        reported.append(report.chosen)
    error = (0.25 / 40 / 12) ** 0.5
    assert sum(reported) / 12 == pytest.approx(0.5, abs=3 * error) and sum(chosen) / 12 > 0.5 + 3 * error


def test_what_teaches_nothing_is_refused(reasoner, make, problems):
    thoughts = separable()
    with pytest.raises(LatentRewardError, match="None of 120 training problems has right and wrong thoughts"):
        train_latent_reward(Thoughts(thoughts.states, torch.ones_like(thoughts.right)), 1, 1e-3, 0)
    for setting in Setting(4, None, 1.0), Setting(4, "gaussian:0.3", 1.0, answers_per_thought=4):
        with pytest.raises(LatentRewardError, match="learns from thoughts that differ"):
            draw_thoughts(reasoner, problems[:4], setting, OPTIONS, 0)
    with pytest.raises(LatentRewardError, match="of 0 latents"):
        draw_thoughts(make(num_latents=0), problems[:4], Setting(4, "gaussian:0.3"), OPTIONS, 0)


def test_thoughts_are_judged_by_all_their_answers(reasoner, problems, tmp_path):
    options = EvaluateSection(max_new_tokens=4, batch_size=8, scorer=even(tmp_path))
    setting = Setting(6, "gaussian:0.5", 3.0, answers_per_thought=3)
    thoughts = draw_thoughts(reasoner, problems[:5], setting, options, 0)
    assert thoughts.states.shape == (5, 2, 3, 32) and thoughts.right.shape == (5, 2)
    thirds = 3 * thoughts.right
    torch.testing.assert_close(thirds, thirds.round())
    assert (thirds % 3 != 0).any()  # answers of one thought that were judged differently
    assert not torch.equal(thoughts.states[:, 0], thoughts.states[:, 1])


def test_a_saved_model_scores_as_before_and_must_fit(reasoner, make, problems, tmp_path):
    torch.manual_seed(1)
    model = LatentRewardModel(LatentRewardConfig(state_size=32, num_latents=3)).eval()
    model.save_pretrained(tmp_path / "lrm")
    assert {file.name for file in (tmp_path / "lrm").iterdir()} == {"config.json", "model.safetensors"}
    questions = [problem.question for problem in problems[:2]]
    latents = [sample.latents for sample in reasoner.generate(questions, n=3, noise="gaussian:0.5")]
    scores = judge_thoughts(model, reasoner, questions, latents)
    assert judge_thoughts(load_latent_reward(tmp_path / "lrm", reasoner), reasoner, questions, latents) == scores
    assert [len(row) for row in scores] == [3, 3] and len({score for row in scores for score in row}) == 6
    with pytest.raises(LatentRewardError, match="reads 3 latents of size 32, and the reasoner makes 2 of size 32"):
        load_latent_reward(tmp_path / "lrm", make(num_latents=2))
    with pytest.raises(LatentRewardError, match="no latent reward model in"):
        load_latent_reward(tmp_path, reasoner)


def test_the_command_trains_one_and_eval_chooses_by_it(capsys, caplog, finished, tmp_path):
    folder, _ = finished
    target = tmp_path / "lrm"
    options = [
        f"evaluate.scorer={even(tmp_path)}",
        "--temperature",
        "1.0",
        "--problems",
        "60",
        "--thoughts",
        "4",
        "--epochs",
        "2",
        "--noise",
        "gaussian:0.9",
        "--output",
        target,
    ]
    code, out, _ = neuralese(capsys, "reward-model", folder, *options)
    assert code == 0 and "Held out     12 problems" in out and str(folder / "rl" / "final") in out
    assert set(json.loads((target / "report.json").read_text())) == {"chosen", "mean", "oracle", "mixed", "epoch"}
    assert_one_paragraph(neuralese(capsys, "reward-model", folder, *options), "exists. Move it away")
    output = tmp_path / "e.json"
    keys = [f"evaluate.latent_reward={target}", "evaluate.selectors=[majority, latent_reward]"]
    code, out, _ = neuralese(capsys, "eval", folder, *keys, "--output", output)
    rows = json.loads(output.read_text())
    chosen = {row["stage"] for row in rows if row["metric"] == "latent_reward@k"}
    assert code == 0 and chosen == {"rl"} and "latent_reward@4" in out
    assert "was trained for another checkpoint and is left out for this one" in caplog.text
    assert_one_paragraph(neuralese(capsys, "eval", folder, keys[0]), "add one of them")


@pytest.mark.parametrize("shared", [1, 2])
def test_kept_samples_teach_what_drawn_ones_do(reasoner, problems, tmp_path, shared):
    options = EvaluateSection(max_new_tokens=4, batch_size=8, scorer=even(tmp_path))
    setting = Setting(4, "gaussian:0.5", 3.0, shared)
    drawn = draw_thoughts(reasoner, problems[:16], setting, options, 0)
    kept = kept_thoughts(reasoner, draw_samples(reasoner, problems[:16], setting, options, 0), setting, options)
    assert torch.equal(kept.right, drawn.right) and 0 < kept.right.mean() < 1
    torch.testing.assert_close(kept.states, drawn.states, atol=1e-5, rtol=1e-4)
    for other in (Setting(4, None, 1.0), Setting(4, "gaussian:0.5", search=Search.tree(4, 1, 3))):
        with pytest.raises(LatentRewardError):
            kept_thoughts(reasoner, [], other, options)


def test_the_command_learns_from_samples_that_eval_kept(capsys, caplog, finished, tmp_path):
    folder, _ = finished
    scored = f"evaluate.scorer={even(tmp_path)}"
    sampled = [scored, "evaluate.sampling=[{noise: gaussian:0.9, temperature: 1.0}]"]
    neuralese(capsys, "eval", folder, *sampled, "--output", tmp_path / "e.json")
    file = tmp_path / "e-samples" / "rl" / "n4-gaussian-0.9-T1.jsonl"
    target = tmp_path / "lrm"
    code, out, error = neuralese(capsys, "reward-model", folder, scored, "--samples", file, "--output", target)
    assert code == 0, error
    assert (
        "20 of the 20 problems learned from are evaluation problems" in caplog.text and "Held out     4 problems" in out
    )
    assert load_latent_reward(target, load_reasoner(folder / "rl" / "final")).config.num_latents == 2

    def refused(file):
        return neuralese(capsys, "reward-model", folder, "--samples", file, "--output", tmp_path / "other")

    assert_one_paragraph(refused(tmp_path / "none.jsonl"), "There is no file")
    other = tmp_path / "e-samples" / "curriculum" / "n4-gaussian-0.9-T1.jsonl"
    assert_one_paragraph(refused(other), "are not of")
    assert_one_paragraph(refused(file.with_name("greedy.jsonl")), "learns from thoughts that differ")
    code, _, error = neuralese(capsys, "reward-model", folder, "--samples", file, "--thoughts", "4")
    assert code == 2 and "remove --thoughts" in " ".join(error.split())
    assert not (tmp_path / "other").exists()


def test_a_folder_without_a_model_is_named_before_training(tmp_path):
    keys = [f"evaluate.latent_reward={tmp_path}", "evaluate.selectors=[latent_reward]", "tracking.wandb=false"]
    with pytest.raises(LatentRewardError, match="no latent reward model in"):
        run(tiny(tmp_path / "out", *keys, "rl=null"))
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named(judge, reasoner, tmp_path):
    """Not left random where weights are missing."""
    judge.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["last.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LatentRewardError, match="lacks weights, the first: last.weight. Train it again"):
        load_latent_reward(tmp_path, reasoner)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="model.safetensors is cut short or damaged"):
        load_latent_reward(tmp_path, reasoner)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not JSON"):
        load_latent_reward(tmp_path, reasoner)
