"""A whole run in chat format: every stage trains and asks with the prompts of the template, and `check` shows them."""

import json

import pytest
from chat_tokenizers import KINDS
from runs import TINY
from test_cli import assert_one_paragraph, neuralese
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOTrainer, SFTTrainer

from neuralese.data import Problem, UserError, load_problems
from neuralese.data.conversation import Conversation
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.model.load import load_tokenizer
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.train.checked_problems import encode_checked
from neuralese.pipeline.train.curriculum.level_trainer import LevelTrainer
from neuralese.pipeline.train.rl.settings import RowCollator, rl_rows
from neuralese.rewards import score

SYSTEM = "You are a helpful assistant"
TURNS = [
    {"role": "user", "content": "17 + 5 ="},
    {"role": "assistant", "content": "22"},
    {"role": "user", "content": "22 + 3 ="},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama with a chat tokenizer, and data with a question of several turns in every tenth row."""
    folder, tokenizer = tmp_path_factory.mktemp("chat"), KINDS["llama3"]()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "llama-tiny-instruct")
    tokenizer.save_pretrained(folder / "llama-tiny-instruct")
    rows = [Problem(f"{i} + 1 =", (f"{i} + 1 = {i + 1}",), str(i + 1)).to_dict() for i in range(60)]
    for i in range(0, 60, 10):
        rows[i]["question"] = [{**TURNS[0], "content": f"{i} ="}, *TURNS[1:]]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def changes(folder, *more):
    data = f"{{path: '{folder / 'data.jsonl'}'}}"
    return [
        f"output_dir={folder / 'outputs'}", "model.config=null", f"model.name_or_path={folder / 'llama-tiny-instruct'}",
        f"data.train={data}", f"data.eval={data}", "data.keep_overlap=true", "data.format=auto",
        f"data.system_prompt={SYSTEM}", "data.answer_format=boxed", "evaluate.max_new_tokens=16", "evaluate.problems=8",
        "tracking.wandb=false", "rl.trainer.max_completion_length=16", "curriculum.supervision=none",
        *(f"{stage}.trainer.max_steps=1" for stage in ("sft", "curriculum", "rl")), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def seen(folder):
    """What each trainer was given, in a run with two controls: token ids by the name of the trainer."""
    found = {"sft": [], "levels": [], "rl": [], "formats": []}
    with pytest.MonkeyPatch.context() as patch:
        for trainer, name in ((SFTTrainer, "sft"), (LevelTrainer, "levels")):

            def spied(self, model, inputs, *args, _name=name, _loss=trainer.compute_loss, **kwargs):
                found[_name] += [
                    [token for token, label in zip(*pair, strict=True) if label != "pad"]
                    for pair in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
                ]
                return _loss(self, model, inputs, *args, **kwargs)

            patch.setattr(trainer, "compute_loss", spied)
        prepare = GRPOTrainer._generate_and_score_completions

        def drawn(self, inputs):
            rollouts = prepare(self, inputs)
            found["rl"] += rollouts["prompt_ids"].tolist()
            return rollouts

        patch.setattr(GRPOTrainer, "_generate_and_score_completions", drawn)
        patch.setattr(score, "call_reward", noting(found["formats"]))
        run(load_recipe(TINY, changes(folder, "controls.no_cot=true", "controls.pause=true")))
    return found


def noting(formats, call=score.call_reward):
    """`call_reward`, which also notes the answer format that its caller names."""

    def spied(reward, problems, texts, answer_format="hash"):
        formats.append(answer_format)
        return call(reward, problems, texts, answer_format)

    return spied


def prompts(folder, latents):
    """Prompts of all questions by the template itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "outputs/tiny/sft/final")
    template = tokenizer.chat_template.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    rows = [json.loads(line)["question"] for line in (folder / "data.jsonl").read_text().splitlines()]
    chats = [row if isinstance(row, list) else [{"role": "user", "content": row}] for row in rows]
    return [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, *chat], chat_template=template, add_generation_prompt=True,
            return_dict=False,
        )
        + latents * [tokenizer.convert_tokens_to_ids("<|latent|>")]
        for chat in chats
    ]  # fmt: skip


def without_padding(row, prompt):
    """Whether a row, padded on either side, has a prompt at its beginning."""
    return any(row[begin : begin + len(prompt)] == prompt for begin in range(len(row) - len(prompt) + 1))


def test_every_stage_shows_the_prompts_of_the_template(seen, folder):
    assert all(seen.values()) and set(seen["formats"]) == {"boxed"}
    for name, latents in (("sft", [0]), ("levels", [0, 1]), ("rl", [1])):
        known = [prompt for count in latents for prompt in prompts(folder, count)]
        assert all(any(without_padding(row, prompt) for prompt in known) for row in seen[name]), name


def test_rl_keeps_all_turns_of_a_question(folder):
    (problem, *_) = load_problems(path=folder / "data.jsonl", limit=1)
    (row,) = RowCollator(rl_rows([problem], 1))([{"row": 0}])
    assert isinstance(row["prompt"], Conversation) and row["prompt"].messages[1] == TURNS[1]


def test_every_checkpoint_remembers_the_format(seen, folder):
    reasoner = None
    for stage, latents in (("sft", 0), ("curriculum", 1), ("rl", 1), ("no_cot", 0), ("pause", 1)):
        reasoner = load_reasoner(folder / "outputs/tiny" / stage / "final")
        config = reasoner.config
        assert (config.format, config.system_prompt, config.answer_format) == ("chat", SYSTEM, "boxed"), stage
        end = reasoner.tokenizer.convert_tokens_to_ids("<|eot_id|>")
        assert end in reasoner.eos_token_ids, stage
        assert reasoner.prompt_ids("1 + 1 =") == prompts(folder, latents)[1], stage
        (encoded,) = encode([Problem("1 + 1 =", (), "2")], reasoner.tokenizer, config)
        assert reasoner.tokenizer.decode(encoded.answer) == "\\boxed{2}<|eot_id|>", stage


def test_samples_say_how_answers_are_announced(seen, folder):
    paths = sorted((folder / "outputs/tiny/samples/rl").glob("*.jsonl"))
    _, rows = Sampled.read(paths[0])
    assert {row.answer_format for row in rows} == {"boxed"} and len(rows) == 8
    assert isinstance(rows[0].question, Conversation) and not isinstance(rows[1].question, Conversation)
    assert json.loads(paths[0].read_text().splitlines()[1])["question"] == rows[0].question.messages


def test_sampling_a_checkpoint_and_auditing_a_run(seen, folder, capsys, monkeypatch):
    final = folder / "outputs/tiny/rl/final"
    code, out, _ = neuralese(capsys, "sample", final, "1 + 1 =", "--max-new-tokens", "4")
    assert code == 0 and out
    assert neuralese(capsys, "think", final, "1 + 1 =")[0] == 0
    formats = []
    monkeypatch.setattr(score, "call_reward", noting(formats))
    code, out, err = neuralese(capsys, "audit", folder / "outputs/tiny", "--problems", "8")
    assert code in (0, 3), err
    assert len(formats) > 5 and set(formats) == {"boxed"}


def test_check_says_which_format_was_chosen_and_shows_it(folder, capsys):
    code, out, _ = neuralese(capsys, "check", TINY, *changes(folder))
    assert code == 0
    said = "data.format: auto is chat: the model is called llama-tiny-instruct and has a chat template."
    assert said in " ".join(out.split())
    line = next(line for line in out.splitlines() if "<|start_header_id|>" in line)
    assert "<|begin_of_text|> <|start_header_id|>" in line and line.rstrip().endswith("[<|eot_id|>]")
    plain = [change for change in changes(folder, "data.format=plain") if "system_prompt" not in change]
    assert_one_paragraph(neuralese(capsys, "check", TINY, *plain), "question of several turns")


def test_auto_is_plain_for_a_name_that_says_nothing(folder, tmp_path, capsys):
    other = tmp_path / "llama-tiny"
    (folder / "llama-tiny-instruct").rename(other)
    try:
        asked = [*changes(folder), f"model.name_or_path={other}"]
        assert_one_paragraph(neuralese(capsys, "check", TINY, *asked), "data.system_prompt needs a chat")
    finally:
        other.rename(folder / "llama-tiny-instruct")


def test_going_on_from_a_checkpoint_takes_its_format_or_says_so(seen, folder, caplog):
    final = folder / "outputs/tiny/sft/final"
    asked = [*changes(folder), f"model.name_or_path={final}", "sft=null"]
    config, tokenizer = load_tokenizer(final)
    recipe = load_recipe(TINY, asked)
    assert encode_checked(recipe, load_all(recipe), tokenizer, config)[0].data.format == "chat"
    assert "was trained with" not in caplog.text
    recipe = load_recipe(TINY, [*asked, "data.answer_format=hash"])
    encode_checked(recipe, load_all(recipe), tokenizer, config)
    assert "trained with data.answer_format=boxed, and this run goes on with hash" in caplog.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.system_prompt=Be brief."], "needs a chat template to stand in"),
        (["data.format=chat", "data.system_prompt=' '"], "system_prompt is empty"),
        (["data.format=chatty"], "data.format"),
        (["data.answer_format=box"], "data.answer_format"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        load_recipe(TINY, [f"output_dir={tmp_path}", *more])


def test_a_model_without_a_template_cannot_chat(tmp_path, capsys):
    found = neuralese(capsys, "check", TINY, f"output_dir={tmp_path}", "data.format=chat")
    assert_one_paragraph(found, "needs a chat template, and the tokenizer has none")
