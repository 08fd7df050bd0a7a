"""`neuralese wandb-layout`: a saved view of a W&B project, with the panels that matter at each stage."""

from __future__ import annotations

from typing import Annotated

import typer

from .terminal import quiet


def wandb_layout(
    project: Annotated[str, typer.Argument(help="ENTITY/PROJECT: a user or a team, and a project that exists.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the panels; ask no server.")] = False,
) -> None:
    """Save a view of a W&B project: sections of panels for each stage, tables, and what a step costs."""
    quiet()
    from ..tracking.wandb_layout import LayoutError, save, workspace

    entity, _, name = project.partition("/")
    if not entity or not name or "/" in name:
        raise LayoutError(f"{project!r} is not of the form ENTITY/PROJECT, such as my-team/neuralese.")
    if not dry_run:
        typer.echo(f"View         {save(entity, name)}")
        return
    for section in workspace(entity, name).sections:
        typer.echo(section.name)
        for panel in section.panels:
            shown = getattr(panel, "table_name", None) or f"{panel.title}: {', '.join(map(str, panel.y))}"
            typer.echo(f"  {shown}")
