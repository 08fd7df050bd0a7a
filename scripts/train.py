"""Run a recipe under a launcher: accelerate launch scripts/train.py recipes/quickstart.yaml [key=value …] [--resume]"""

import sys

from neuralese.pipeline.cli.app import main

main(["train", *sys.argv[1:]])
