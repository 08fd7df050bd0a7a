"""Arms of the curriculum: what each sees, its plan, the modules that it trains, and settings that are refused."""

import pytest
import torch
from runs import TINY
from safetensors.torch import load_file
from tiny_curriculum import DECODER, PROJECTION, STOPPING, recipe, report
from transformers import AutoModelForCausalLM

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.curriculum import visit
from neuralese.pipeline.train.curriculum.arm_plan import plan_arm
from neuralese.pipeline.train.curriculum.arms import ARMS
from neuralese.pipeline.train.curriculum.order import Rules


@pytest.fixture
def shown(monkeypatch):
    """The datasets that stages were trained on, in order, with the folder of each."""
    seen = []
    original = visit.LevelDataset

    def spy(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(visit, "LevelDataset", spy)
    return seen


def test_every_arm_sees_what_it_is_named_for(tmp_path, shown):
    controls = [name for name in ARMS if name not in ("latent", "more_supervised")]
    rows = run(recipe(tmp_path, *[f"controls.{name}=true" for name in controls]))
    accuracy = {row.stage: row for row in rows if row.metric == "accuracy"}
    assert list(accuracy) == ["sft", "curriculum", *controls]
    modes = {name: row.mode for name, row in accuracy.items()}
    assert modes == {
        "sft": "text", "curriculum": "latent", "text_cot": "text", "no_cot": "no_cot", "pause": "pause",
        "pause_multi": "pause", "no_curriculum": "latent",
    }  # fmt: skip
    for name in accuracy.keys() - {"sft"}:
        steps = [visit["steps"] for visit in report(tmp_path / "tiny" / name)["visits"]]
        assert steps == ([4, 4] if name in ("curriculum", "pause", "pause_multi") else [8]), name
    latents = [{data[i]["input_ids"].count(data.style.config.token_ids[1]) for i in range(len(data))} for data in shown]
    # curriculum (mixing text in), text, no CoT, pause, multi-pass pause, no curriculum.
    assert latents == [{0, 1}, {0, 1, 2}, {0}, {0}, {0, 1}, {0, 1, 2}, {0, 1}, {0, 1, 2}, {2}]
    for index in range(len(shown[2])):  # text: every step
        problem = shown[2].problems[shown[2].place(index)]
        assert shown[2][index]["input_ids"] == [
            *problem.question,
            *problem.steps[0],
            *problem.steps[1],
            *problem.answer,
        ]
    for index in range(len(shown[3])):  # no CoT: never a step
        problem = shown[3].problems[shown[3].place(index)]
        assert shown[3][index]["input_ids"] == [*problem.question, *problem.answer]
    sources = [data.style.config.thought_source for data in shown]
    assert sources[4:8] == ["pause", "pause", "pause_multi", "pause_multi"] and sources[8] == "norm_matched"


def test_an_arm_alone(tmp_path):
    rows = run(recipe(tmp_path, "controls.latent=false", "controls.no_curriculum=true"))
    assert {row.stage for row in rows} == {"sft", "no_curriculum"}
    with pytest.raises(UserError, match="controls.latent=false trains controls alone; choose one"):
        recipe(tmp_path, "controls.latent=false")
    with pytest.raises(UserError, match="controls.latent=false leaves no latents for rl to train; set rl=null"):
        load_recipe(TINY, ["controls.latent=false", "controls.no_cot=true"])


def test_as_many_supervised_steps_as_rl_has(tmp_path, shown):
    options = [f"output_dir={tmp_path}", "tracking.wandb=false", "controls.more_supervised=true"]
    options += ["rl.trainer.max_steps=3", "rl.trainer.gradient_accumulation_steps=2", "curriculum.promote_at=0.01"]
    rows = run(load_recipe(TINY, options))
    assert {row.stage: row.mode for row in rows}["more_supervised"] == "latent"
    (visit,) = report(tmp_path / "tiny" / "more_supervised")["visits"]
    assert visit["steps"] == 3 and visit["target"] is None  # not stopped short by its accuracy
    assert len(shown[-1]) == 3 * 8 * 2 and shown[-1][0]["input_ids"].count(shown[-1].style.config.token_ids[1]) == 2
    began = load_file(tmp_path / "tiny" / "curriculum" / "final" / "model.safetensors")
    ended = load_file(tmp_path / "tiny" / "more_supervised" / "final" / "model.safetensors")
    change = max((ended[name] - began[name]).abs().max() for name in began)
    assert 0 < change < 0.02  # it went on from the curriculum
    with pytest.raises(UserError, match="give rl.trainer.max_steps"):
        recipe(tmp_path, "controls.more_supervised=true")


def test_the_plan_of_each_arm(tmp_path):
    """Three levels of at most 5, 5 and 9 optimizer steps; the last one ends early in the latent arm alone."""
    options = ["curriculum.trainer.max_steps=5", "curriculum.last_level_trainer={max_steps: 9}"]
    options += ["curriculum.promote_at=0.9", "curriculum.last_level_at=0.5", "curriculum.at_limit=stop"]
    of = load_recipe(TINY, [f"output_dir={tmp_path}", *options, "curriculum.step_back_at=0.4"])

    def planned(name):
        plan = plan_arm(of, name, 3, 100)
        return plan.limits, [plan.threshold(level) for level in plan.levels], plan.rules

    none = Rules(stop_at_limit=False)
    assert planned("latent") == ([5, 5, 9], [0.9, 0.9, 0.5], Rules(stop_at_limit=True, step_back_at=0.4))
    assert planned("pause") == planned("pause_multi") == ([5, 5, 9], [0.9, 0.9, 0.9], none)
    assert planned("no_curriculum") == planned("text_cot") == planned("no_cot") == ([19], [0.9], none)
    assert planned("more_supervised") == ([4], [None], none)  # as many as RL has


def test_modules_of_our_own_are_trained_saved_and_left_out_where_nobody_needs_them(tmp_path):
    of = recipe(tmp_path, PROJECTION, *DECODER)
    run(of)
    folder = of.folder / "curriculum"
    first, last = (load_file(folder / name / "final" / "model.safetensors") for name in ("level-1", "level-2"))
    for name in ("thought_source.map.0.weight", "supervision.trunk.h.0.attn.c_attn.weight"):
        assert not torch.equal(first[name], last[name]), name
    reasoner = load_reasoner(folder / "final")
    assert torch.equal(reasoner.model.thought_source.map[0].weight, last["thought_source.map.0.weight"])
    assert reasoner.model.supervision is None
    with pytest.raises(UserError, match="no decoder to read thoughts with"):
        reasoner.read_thoughts(torch.zeros(2, 16))
    reader = load_reasoner(folder / "final", supervised=True)
    assert len(reader.read_thoughts(torch.zeros(2, 16))) == 2
    AutoModelForCausalLM.from_pretrained(folder / "final")  # the weights still open without us


def test_lora_trains_modules_of_our_own_and_merges(tmp_path):
    lora = "model.lora={target_modules: [c_attn], r: 2, modules_to_save: [ln_f], exclude_modules: [c_fc]}"
    of = recipe(tmp_path, PROJECTION, *DECODER, lora)
    run(of)
    folder = of.folder / "curriculum"
    first, last = (load_file(folder / name / "final" / "model.safetensors") for name in ("level-1", "level-2"))
    assert not any("lora" in name or "modules_to_save" in name for name in last)
    for name in ("thought_source.map.0.weight", "supervision.trunk.h.0.attn.c_attn.weight"):
        assert not torch.equal(first[name], last[name]), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("latent.thought_source=projektion", "'projektion', did you mean 'projection'"),
        ("latent.thought_options={top_k: 3}", "Unknown thought_options ['top_k']"),
        ("curriculum.supervision_options={gamma: 2}", "Unknown supervision_options ['gamma']"),
        ("curriculum.noise=learned:1", "curriculum.noise=learned:1 needs a thought source that gives a std"),
        ("latent.stop_head=true", "set curriculum.pad_latents=false"),
        ("curriculum.pad_latents=false", "set latent.stop_head=true"),
        ("latent={stop_head: true, jacobi_sweeps: 2}", "remove stop_head or jacobi_sweeps"),
        ("latent={stop_head: true, loops: 2}", "remove stop_head or loops"),
        ("latent={window: 1, loops: 2}", "but mode is looped; remove window or loops"),
        ("latent={sees_question: false, jacobi_sweeps: 2}", "remove sees_question=false or jacobi_sweeps"),
        ("latent.window=0", "latent.window"),
        ("latent.mode=looped", "mode=looped needs loops, the number of its passes"),
        ("latent={mode: jacobi, loops: 2}", "mode=jacobi needs jacobi_sweeps"),
        ("latent={mode: sequential, loops: 2}", "loops=2 belongs to mode=looped, but mode is sequential"),
        ("latent={mode: looped, loops: 0}", "latents without a loop are pause tokens: thought_source=pause"),
        ("latent.injection=replace", "injection=replace belongs to mode=looped"),
        ("latent.mode=loop", "latent.mode"),
        ("curriculum.steps_per_level=[all, 1]", "whose last entry may be all"),
        ("curriculum.steps_per_level=[1]", "never removes all steps"),
        ("curriculum.preset=coconut-gsm", "unknown curriculum.preset 'coconut-gsm', did you mean 'coconut-gsm8k'"),
        ("curriculum.trainer={learning_rate: 1.0e-3}", "neither max_steps nor num_train_epochs"),
        ("curriculum.trainer.train_sampling_strategy=random", "train_sampling_strategy=random would mix the passes"),
        ("curriculum.last_level_trainer={max_step: 3}", "last_level_trainer.max_step', did you mean 'max_steps'"),
        ("latent={thought_source: pause}", "curriculum.noise=gaussian:0.3 has no latents to fall on"),
        ("latent.max_latents=3", "must be a multiple of latents_per_step=2"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_training(tmp_path, override, message):
    latents = ["latent.latents_per_step=2"] if "max_latents" in override else []
    latents += ["curriculum.noise=gaussian:0.3"] if "pause}" in override else []
    with pytest.raises(UserError) as error:
        run(recipe(tmp_path, *latents, override))
    assert message in str(error.value)
    assert not (tmp_path / "tiny" / "sft" / "final").exists()


def test_pause_tokens_in_one_pass_do_not_take_learned_stopping():
    with pytest.raises(UserError, match="cannot stop; choose controls.pause_multi"):
        load_recipe(TINY, [*STOPPING, "rl=null", "controls.pause=true"])
