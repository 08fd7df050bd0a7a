"""W&B: variables of the environment, no network, no key."""

import logging

import wandb

from neuralese.pipeline.run import hub

from .day import TINY, BadDay

TRAIN = ["train", TINY, "output_dir={folder}", "rl=null", "curriculum=null", "evaluate.sampling=[]"]


def variables(**values):
    def before(scene):
        for name, value in values.items():
            scene.monkeypatch.setenv(name, value)

    return before


def bad_key(scene):
    variables(WANDB_MODE="online", WANDB_API_KEY="abc")(scene)
    fresh(scene)


def without_token(scene):
    scene.monkeypatch.setattr(hub, "get_token", lambda: None)


def fresh(scene):
    wandb.teardown()  # it read the environment of an earlier test
    scene.cleanup.callback(wandb.teardown)
    # What W&B logs goes to its own debug.log, and not to the user; pytest would catch it all the same.
    scene.monkeypatch.setattr(logging.getLogger("wandb"), "disabled", True)


def no_network(scene):
    fresh(scene)
    scene.monkeypatch.delenv("WANDB_MODE")
    variables(WANDB_API_KEY="k" * 40, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_INIT_TIMEOUT="1")(scene)


def recorded_offline(scene):
    assert len(list((scene.folder / "tiny" / "wandb").glob("offline-run-*"))) == 2


def no_wandb(scene):
    assert not (scene.folder / "tiny" / "wandb").exists() and (scene.folder / "tiny" / "metrics.jsonl").is_file()


DAYS = [
    BadDay(
        "`WANDB_MODE=foo`",
        ["check", TINY],
        "W&B refuses WANDB_MODE=foo: Input should be 'online', 'offline', 'shared', 'disabled', 'dryrun' or 'run'.",
        before=variables(WANDB_MODE="foo"),
    ),
    BadDay(
        "`WANDB_DISABLED=perhaps`",
        ["check", TINY],
        "WANDB_DISABLED=perhaps must be true or false.",
        before=variables(WANDB_DISABLED="perhaps"),
    ),
    BadDay(
        "`WANDB_INIT_TIMEOUT=soon`",
        ["check", TINY],
        "W&B refuses WANDB_INIT_TIMEOUT=soon: Input should be a valid number",
        before=variables(WANDB_INIT_TIMEOUT="soon"),
    ),
    BadDay(
        "`tracking.project=team/project`",
        ["check", TINY, "tracking.project=team/project"],
        "W&B refuses tracking.project='team/project' or tracking.entity=None: Invalid project name",
    ),
    BadDay(
        "another value of `WANDB_DISABLED`, where W&B is off anyway",
        ["check", TINY, "tracking.wandb=false"],
        "Run folder: outputs/tiny",
        code=0,
        before=variables(WANDB_DISABLED="perhaps"),
    ),
    BadDay(
        "a `WANDB_DIR` that cannot be written to",
        ["check", TINY],
        "/proc/wandb cannot be written to: No such file or directory (/proc). Name another place with WANDB_DIR",
        before=variables(WANDB_DIR="/proc/wandb"),
    ),
    BadDay(
        "a W&B key, and no network",
        TRAIN,
        "W&B could not start (Failed to get resume status for run",
        "runs offline, to be uploaded; the server is waited for once",
        code=0,
        before=no_network,
        after=recorded_offline,
    ),
    BadDay(
        "a W&B key that is none",
        TRAIN,
        "W&B could not start (WANDB_API_KEY invalid: API key must have 40+ characters, has 3). This run and the stages "
        "after it are recorded offline.",
        "runs offline, to be uploaded",
        code=0,
        before=bad_key,
        after=recorded_offline,
    ),
    BadDay(
        "`WANDB_DISABLED=true`",
        TRAIN,
        "Checkpoint {folder}/tiny/sft/final",
        "no W&B run, and none is printed",
        code=0,
        before=variables(WANDB_DISABLED="true"),
        after=no_wandb,
    ),
    BadDay(
        "`WANDB_MODE=disabled`",
        TRAIN,
        "Checkpoint {folder}/tiny/sft/final",
        "no W&B run, and none is printed",
        code=0,
        before=variables(WANDB_MODE="disabled"),
        after=no_wandb,
    ),
    BadDay(
        "a run folder with a space in its path",
        [*TRAIN, "output_dir={folder}/my runs"],
        "to upload: wandb sync '{folder}/my runs/tiny/wandb'/offline-run-*",
        "offline runs; the command can be pasted",
        code=0,
    ),
    BadDay(
        "`tracking.push_to_hub` without a token of the Hub",
        [*TRAIN, "tracking.push_to_hub=me/mine"],
        "tracking.push_to_hub=me/mine needs a token that may write there. Run hf auth login, or set HF_TOKEN.",
        before=without_token,
    ),
    BadDay(
        "`tracking.push_to_hub` where the Hub cannot be reached",
        [*TRAIN, "tracking.push_to_hub=me/mine", "tracking.wandb=false"],
        "Nothing is lost; to send the weights: hf upload me/mine {folder}/tiny/sft/final",
        "all of the run",
        code=0,
        before=variables(HF_TOKEN="hf_secret"),
    ),
]
