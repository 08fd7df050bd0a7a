"""`python -m neuralese.pipeline.cli`, the form in which `accelerate launch --module` takes the command."""

from .app import main

main()
