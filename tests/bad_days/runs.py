"""Too little memory, lost processes, interrupts, and errors that nobody foresaw."""

import signal

import pytest
import torch

from neuralese.pipeline.cli.app import main
from neuralese.pipeline.latent.sampling import generate
from neuralese.pipeline.run import evaluate
from neuralese.pipeline.system.integrity import fault_in
from neuralese.pipeline.train import callbacks

from .day import AS_BEFORE, FINISHED, SFT, TINY, BadDay

RL = ["train", TINY, "output_dir={folder}", "curriculum=null", "rl.noise=null", "tracking.wandb=false"]
RL += ["evaluate.sampling=[]"]
DRAW = generate._generate


def raising(error):
    """At the third step of training, after a checkpoint."""

    def fail(self, args, state, control, **_):
        if state.global_step == 3:
            raise error

    def before(scene):
        scene.monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", fail)

    return before


def drawing_raises(error):
    def fail(*_, **__):
        raise error

    def before(scene):
        scene.monkeypatch.setattr(generate, "_generate", fail)

    return before


def goes_on_with_fewer_at_once(scene):
    assert (scene.folder / "tiny" / "sft" / "final" / "model.safetensors").is_file()
    assert "OutOfMemoryError" in (scene.folder / "tiny" / "error.log").read_text()
    scene.monkeypatch.setattr(generate, "_generate", DRAW)
    command = [argument.replace("{folder}", str(scene.folder)) for argument in RL]
    with pytest.raises(SystemExit) as done:
        main([*command, "rl.rollout_batch_tokens=40", "--resume"])
    assert not done.value.code
    assert (scene.folder / "tiny" / "rl" / "final" / "model.safetensors").is_file()


def has_checkpoint(scene):
    assert fault_in(scene.folder / "tiny" / "sft" / "checkpoint-2") is None


def has_checkpoint_and_trace(scene):
    assert (scene.folder / "tiny" / "sft" / "checkpoint-2").is_dir()
    trace = (scene.folder / "tiny" / "error.log").read_text()
    assert "while training sft" in trace and "Traceback" in trace and "on_step_end" in trace


def interrupted(scene):
    def interrupt(*_, **__):
        # What a shell starts in the background ignores Ctrl-C, and so would this process.
        usual = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, usual)

    scene.monkeypatch.setattr(evaluate, "load_evaluation", interrupt)


def home(scene):
    scene.monkeypatch.setenv("HOME", str(scene.folder))
    scene.monkeypatch.chdir(scene.folder)


def is_at_home(scene):
    assert (scene.folder / "runs" / "tiny" / "sft" / "final").is_dir()
    assert not (scene.folder / "~").exists()


def one_of_two(scene):
    """What `accelerate launch --num_processes 2` without a config file sets."""
    scene.monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    scene.monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    scene.monkeypatch.setenv("MASTER_PORT", "29500")


def without_launcher(scene):
    scene.monkeypatch.delenv("WORLD_SIZE", raising=False)
    scene.monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")  # which the config class sets, to be set back


DAYS = [
    BadDay(
        "a DeepSpeed config without a launcher",
        [*SFT, "sft.trainer.deepspeed={zero_optimization: {stage: 2}}"],
        "sft.trainer.deepspeed needs a launcher, which tells the processes of each other.",
        before=without_launcher,
    ),
    BadDay(
        "a GPU with too little memory",
        SFT,
        "Error while training sft: There is too little memory (OutOfMemoryError: CUDA out of memory. Tried to allocate "
        "20.00 GiB). Lower per_device_train_batch_size in the trainer section of that stage",
        FINISHED,
        before=raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
        after=has_checkpoint_and_trace,
    ),
    BadDay(
        "a computer with too little memory",
        [*SFT, "sft.trainer.per_device_train_batch_size=4"],
        "There is too little memory (RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        "4000000000000 bytes",
        FINISHED,
        before=raising(
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes.")
        ),
        after=has_checkpoint_and_trace,
    ),
    BadDay(
        "a GPU with too little memory for the rollouts",
        [*RL, "rl.rollout_batch_tokens=100"],
        "Error while training rl: There is too little memory to draw 8 answers at once, which hold 8 x 10 = 80 tokens "
        "(OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB). Lower rl.rollout_batch_tokens, which is "
        "100. Finished stages and the last checkpoint stay. The same command with --resume goes on from the last "
        "checkpoint.",
        FINISHED,
        before=drawing_raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
        after=goes_on_with_fewer_at_once,
    ),
    BadDay(
        "a process of the launch that was killed, or a computer that is off the network",
        SFT,
        "Error while training sft: Another process of this launch has ended or cannot be reached (Read error "
        "[10.0.0.2]:4242: Connection reset by peer). If an error ended it, it has said so on its machine; else it was "
        "killed, or its machine is down or off the network. Start the launch again on all machines. Finished stages "
        "and the last checkpoint stay. The same command with --resume goes on from the last checkpoint.",
        FINISHED,
        before=raising(
            RuntimeError(
                "[/src/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:4242: Connection reset by peer. This is "
                "typically caused by a remote worker hanging."
            )
        ),
        after=has_checkpoint,
    ),
    BadDay(
        "an error that nobody foresaw",
        SFT,
        "Error while training sft: RuntimeError: shapes do not fit. Nobody foresaw this error: change what it names, "
        "or report it with the trace. Finished stages and checkpoints stay. The same command with --resume goes on "
        "from the last checkpoint. The full trace is in {folder}/tiny/error.log, and --debug shows it.",
        FINISHED,
        code=1,
        before=raising(RuntimeError("shapes do not fit")),
        after=has_checkpoint_and_trace,
    ),
    BadDay(
        "an interrupt while training",
        SFT,
        "Interrupted while training sft. The same command with --resume goes on from the last checkpoint.",
        FINISHED,
        code=130,
        before=raising(KeyboardInterrupt()),
    ),
    BadDay(
        "an interrupt in any other command",
        ["eval", "{finished}", "--output", "{folder}/eval.json"],
        "Interrupted. Run the command again.",
        AS_BEFORE,
        code=130,
        before=interrupted,
    ),
    BadDay(
        "`output_dir=~/runs`",
        [*SFT, "output_dir=~/runs"],
        "Checkpoint {folder}/runs/tiny/sft/final",
        "all of the run in one folder",
        code=0,
        before=home,
        after=is_at_home,
    ),
    BadDay(
        "the home folder of a user who is not there",
        ["check", TINY, "output_dir=~nobody-of-this-name/runs"],
        "output_dir: '~nobody-of-this-name/runs' begins with a home folder that does not exist; write the path in full",
    ),
    BadDay(
        "`accelerate launch --num_processes 2` without a config file",
        SFT,
        "accelerate launch was asked for several processes and has started one",
        "one process trains, as is printed",
        code=0,
        before=one_of_two,
    ),
]
