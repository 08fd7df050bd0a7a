"""Checkpoints as far as their files tell what they are: for tests that never train from them."""

import json

import torch
from safetensors.torch import save_file

LAUNCH = {
    "processes": 1, "backend": "none", "gpus_per_process": 0, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "training_data": "1 problem (ab)",
}  # fmt: skip


def make_checkpoint(folder, **launch):
    """A whole checkpoint that says it was made under this launch."""
    made = {**LAUNCH, **launch}
    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    ranks = range(made["processes"])
    for name in ["rng_state.pth"] if len(ranks) == 1 else [f"rng_state_{rank}.pth" for rank in ranks]:
        torch.save(torch.random.get_rng_state(), folder / name)
    if made["backend"] == "none":
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.save({"state": torch.ones(100)}, folder / name)
    else:
        (folder / "global_step2").mkdir()
        (folder / "latest").write_text("global_step2")
        for rank in ranks:
            torch.save({}, folder / "global_step2" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    state = {"global_step": 2, "stateful_callbacks": {"LaunchCallback": {"args": {}, "attributes": made}}}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def cut(file, share=0.5):
    """Leaves the first part of a file, as a power cut does."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
