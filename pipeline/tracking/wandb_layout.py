"""A saved view of a W&B project: the panels that a person wants at each stage, by section."""

from __future__ import annotations

from typing import Any

from ...data.errors import UserError, first_line

NAME = "neuralese"
AXIS = "global_step"
# Plots over another axis, by title. Runs with other batches compare by rollouts.
AXES = {"rewards, by rollouts": "rollouts", "held-out accuracy, RL, by rollouts": "rollouts"}
# Of each section its plots: a title, and the metrics that it shows. docs/metrics.md explains them.
SECTIONS: dict[str, dict[str, list[str]]] = {
    "How good": {
        "held-out accuracy, curriculum": ["accuracy"],
        "held-out accuracy, RL": ["held_out/accuracy"],
        "held-out accuracy, RL, by rollouts": ["held_out/accuracy"],
        "rewards": ["group/mean", "group/best"],
        "rewards, by rollouts": ["group/mean"],
        "with other latents": ["held_out/accuracy", "held_out/swap", "held_out/zero", "held_out/as_text"],
    },
    "Supervised": {
        "loss": ["loss"],
        "parts of the loss": ["token_loss", "latent_loss", "stop_loss"],
        "token accuracy (sft)": ["mean_token_accuracy"],
        "level": ["curriculum_level"],
        "gradient norm": ["grad_norm"],
        "learning rate": ["learning_rate"],
    },
    "RL: what is learned": {
        "groups with different rewards": ["group/mixed"],
        "different answers": ["rollout/distinct"],
        "entropy": ["entropy"],
        "length of answers": ["completions/mean_length", "completions/clipped_ratio"],
        "latents of a thought": ["rollout/num_latents"],
    },
    "RL: thoughts": {
        "size of latents": ["latent/rms"],
        "cosine between thoughts": ["latent/cosine"],
        "effective rank": ["latent/effective_rank"],
        "legibility": ["thought/legibility", "thought/readable", "thought/least_read"],
        "log-probs of what is read": ["thought/gold_logprob", "thought/text_logprob"],
    },
    "RL: is it sound?": {
        "sampler against trainer": ["rollout/replay_gap", "rollout/kl_k1", "rollout/kl_k2"],
        "ratios": ["ratio/sd"],
        "KL to the reference": ["kl"],
        "critic": ["value/loss", "value/explained_variance"],
        "rollouts without a reward": ["group/unscored"],
    },
    "Cost": {
        "seconds of a step": ["time/step", "time/rollout", "time/reward", "time/replay", "time/optimizer", "time/eval"],
        "tokens a second": ["throughput/tokens_per_second"],
        "latents a second": ["throughput/latents_per_second"],
        "rollouts a second": ["throughput/rollouts_per_second"],
        "memory": ["memory/peak_gib"],
        "MFU": ["throughput/mfu"],
    },
}
TABLES = ["completions", "held_out/followed", "results", "audit/gates"]


class LayoutError(UserError):
    """A view that cannot be built or saved."""


def workspace(entity: str, project: str) -> Any:
    """The view as a `wandb_workspaces` Workspace, not saved yet. Runs are grouped by pipeline.

    Raises:
        LayoutError: The package wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise LayoutError(
            "A view needs the package wandb-workspaces. Install it: pip install 'neuralese[workspaces]'"
        ) from error
    sections = [
        ws.Section(
            name=name,
            panels=[
                wr.LinePlot(title=title, x=AXES.get(title, AXIS), y=[*metrics]) for title, metrics in plots.items()
            ],
            is_open=place == 0,
        )
        for place, (name, plots) in enumerate(SECTIONS.items())
    ]
    tables: list[Any] = [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    sections.insert(1, ws.Section(name="Tables", panels=tables))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=AXIS),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


def save(entity: str, project: str) -> str:
    """Saves the view in a project on the server; returns its address.

    Raises:
        LayoutError: The package is missing, or the server refuses.
    """
    view = workspace(entity, project)
    try:
        return str(view.save().url)
    except Exception as error:  # of many kinds: no key, no network, no such project
        raise LayoutError(
            f"W&B did not save the view in {entity}/{project}: {first_line(error)}. Look at "
            "the key (wandb login) and at the name of the project, which must exist."
        ) from error
