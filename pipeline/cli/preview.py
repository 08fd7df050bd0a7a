"""Problems as each level of the curriculum shows them to the model, token by token, for `neuralese check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from ..latent.config import LatentConfig
from ..latent.supervision import IGNORE
from ..latent.tokens import LATENT, special_token_ids
from ..model.build import build_config, build_tokenizer
from ..model.folder import Unreachable
from ..model.load import load_tokenizer
from ..model.text_format import chosen_format
from ..problems.encode import Encoded
from ..problems.format import Format
from ..problems.load import Problems
from ..problems.schedule import TEXT, Level
from ..recipe.schema import Recipe
from ..train.checked_problems import encode_checked
from ..train.curriculum.arms import latent_levels, most_steps
from ..train.memory.inputs import Inputs

EXAMPLES = 3
PLACEHOLDER = "▪"


def print_examples(asked: Recipe, problems: Problems, console: Console) -> Inputs | None:
    """Checks the problems as a run does, and prints the first ones at every level of the arm `latent`.

    Returns:
        What the stages start from; None where the model's config and tokenizer cannot be had.

    Raises:
        UserError: See `encode_checked`.
    """
    try:
        config, tokenizer = recipe_tokenizer(asked, problems)
    except Unreachable as error:
        console.print(f"No examples are shown. {escape(str(error))}", soft_wrap=True, highlight=False)
        return None
    recipe, encoded = encode_checked(asked, problems, tokenizer, config)
    levels = [TEXT]
    if recipe.latent.latents_per_step != asked.latent.latents_per_step:
        shown = f"latents_per_step: auto is {recipe.latent.latents_per_step} for the problems above."
        console.print(shown, highlight=False)
    if asked.data.format == "auto":
        chosen, why = chosen_format(asked, tokenizer, config)
        console.print(escape(f"data.format: auto is {chosen}: {why}."), highlight=False)
    latent, section = recipe.latent, recipe.curriculum
    if section is not None:
        levels += latent_levels(recipe, most_steps(problems.train))
    style = Format(
        LatentConfig(
            latents_per_step=latent.block_size,
            delimiters=latent.delimiters,
            supervision=section.supervision if section is not None else "none",
            supervision_options=section.supervision_options if section is not None else {},
            stop_head=latent.stop_head,
            token_ids=special_token_ids(tokenizer),
            **recipe.data.text_options,
        ),
        section is None or section.pad_latents,
        tokenizer.eos_token_id,
    )
    console.print("Examples. [bold green]\\[tokens][/] in brackets carry loss; ▪ is a latent.", highlight=False)
    for level in levels:
        console.print(f"level {level.index}", style="bold")
        for item in encoded[:EXAMPLES]:
            console.print(render_line(style, item, level, tokenizer), soft_wrap=True, highlight=False)
    return Inputs(recipe, config, tokenizer, encoded)


def render_line(style: Format, encoded: Encoded, level: Level, tokenizer: PreTrainedTokenizerBase) -> Text:
    """A problem at a level, with tokens that carry loss in brackets. What a supervision reads is on further lines."""
    example = style.example(encoded, level)
    ids, labels = example["input_ids"], example["labels"]
    slots = example.get("slot_labels", labels)
    line = _tokens(ids, [max(pair) for pair in zip(labels, slots, strict=True)], tokenizer)
    if style.config.stop_head and LATENT in tokenizer.convert_ids_to_tokens(ids):
        line.append("\n    stop head: [go on at every latent, stop at the last]", style="green")
    for step in example.get("step_ids", []):
        text = tokenizer.decode(step).replace("\n", "⏎")
        line.append(f"\n    decoder: [{text}]", style="green")
    if "teacher_ids" in example and level is not TEXT:
        line.append("\n    teacher:").append(_tokens(example["teacher_ids"], example["teacher_labels"], tokenizer))
        places = (ids[example["student_position"]], example["teacher_ids"][example["teacher_position"]])
        ours, theirs = (_shown(token, tokenizer) for token in places)
        line.append(f"\n    distillation: [state at {ours} drawn to the teacher's at {theirs}]", style="green")
    return line


def _tokens(ids: Sequence[int], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Text:
    line = Text("  ")
    for token, label in zip(ids, labels, strict=True):
        shown = _shown(token, tokenizer)
        if label == IGNORE:
            line.append(shown + " ")
        elif shown == PLACEHOLDER:
            line.append(shown)
            line.append(f"[{tokenizer.decode([label])}] ", style="bold green")
        else:
            line.append(f"[{shown}] ", style="bold green")
    return line


def _shown(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.convert_ids_to_tokens(token)
    return PLACEHOLDER if text == LATENT else tokenizer.decode([token]).replace("\n", "⏎") or text


def recipe_tokenizer(recipe: Recipe, problems: Problems) -> tuple[Any, PreTrainedTokenizerBase]:
    """Config and tokenizer that a run would train with.

    Raises:
        ModelError: There are none. `Unreachable` if they cannot be downloaded.
    """
    model = recipe.model
    if model.config is not None:
        shown = [*problems.held_out, *problems.train]
        if recipe.data.train.is_generated:  # check generates a part of it, which may lack a word
            shown += problems.evaluation
        tokenizer = build_tokenizer(shown, recipe.data.answer_format)
        return build_config(model.config, tokenizer), tokenizer
    assert model.name_or_path is not None
    return load_tokenizer(model.name_or_path, model.trust_remote_code, model.gguf_file)
