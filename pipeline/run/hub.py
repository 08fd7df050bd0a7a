"""What a run ends with, on the Hugging Face Hub: the weights of its last stage, its recipe, its results, and a card."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ...data.errors import UserError, first_line
from ..evaluate.measure import Measurement
from ..evaluate.table import metric_name, results_columns, table_rows
from ..recipe.schema import Recipe
from ..system.integrity import read_seconds

logger = logging.getLogger(__name__)
CARD = "README.md"


class HubError(UserError):
    """Weights that cannot be sent to the Hub as asked."""


def check_hub(recipe: Recipe) -> None:
    """Checks the name in `tracking.push_to_hub` and that there is a token. Asks nobody.

    Raises:
        HubError: The name is none, or there is no token.
    """
    name = recipe.tracking.push_to_hub
    if name is None:
        return
    try:
        validate_repo_id(name)
        is_whole = "/" in name
    except HFValidationError:
        is_whole = False
    if not is_whole:
        raise HubError(f"tracking.push_to_hub={name!r} is no name on the Hub. Write OWNER/NAME.")
    if get_token() is None:
        raise HubError(
            f"tracking.push_to_hub={name} needs a token that may write there. Run hf auth login, or set HF_TOKEN."
        )


def push(recipe: Recipe, stage: str, checkpoint: Path, rows: Sequence[Measurement]) -> None:
    """Sends the weights of a stage, with the recipe, the results and a card, in one commit.

    A repository that is not there is made, and is private. A card that is there stays. What fails is a warning: the run
    folder has all of it.
    """
    name = recipe.tracking.push_to_hub
    assert name is not None
    sent = [(file.relative_to(checkpoint).as_posix(), file) for file in sorted(checkpoint.rglob("*")) if file.is_file()]
    sent += [(file.name, file) for file in (recipe.folder / "recipe.yaml", recipe.folder / "results.json")]
    operations = [CommitOperationAdd(path, file) for path, file in sent]
    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        if not api.file_exists(name, CARD):
            operations.append(CommitOperationAdd(CARD, str(card(recipe, stage, rows)).encode()))
        done = api.create_commit(name, operations, commit_message=f"{recipe.name}: {stage}, seed {recipe.seed}")
    except Exception as error:  # of many kinds: no network, no right to write, a full quota
        logger.warning(
            "The Hub did not take %s (%s). Nothing is lost; to send the weights: hf upload %s %s",
            name, first_line(error), name, shlex.quote(str(checkpoint)),
        )  # fmt: skip
        return
    print(f"Hub          {done.commit_url}")


def card(recipe: Recipe, stage: str, rows: Sequence[Measurement]) -> ModelCard:
    """The card: what the weights are, how they are loaded, and what was measured."""
    model, name = recipe.model.name_or_path, recipe.tracking.push_to_hub
    is_on_hub = model is not None and not Path(model).exists()
    about = ModelCardData(base_model=model if is_on_hub else None, tags=["latent-reasoning", "neuralese"])
    headings = ["model", "samples", *(metric_name(*column) for column in results_columns(rows)), "train s"]
    table = [headings, ["---"] * len(headings), *table_rows(rows, read_seconds(recipe.folder))]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return ModelCard(
        f"---\n{about.to_yaml()}\n---\n\n# {recipe.name}\n\n"
        f"Weights of the stage `{stage}` of a recipe of neuralese, which thinks in latents, vectors that are fed back, "
        "before it answers in text. `recipe.yaml` makes them again, and `results.json` has all that was measured.\n\n"
        "```python\nfrom neuralese.pipeline import load_reasoner\n\n"
        f'reasoner = load_reasoner("{name}")\n(samples,) = reasoner.generate(["..."])\nsamples.texts\n```\n\n'
        f"## Results\n\nSeed {recipe.seed}, 95% intervals in brackets.\n\n{lines}\n"
    )
