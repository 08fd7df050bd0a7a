"""Run a recipe whose RL reads every rollout's question anew and makes all logits at once, as before they were shared.

    python scripts/train_unshared.py recipes/quickstart.yaml resume_from=outputs/quickstart@curriculum name=unshared

Takes what `neuralese train` takes. It says whether a training ends where one that shares questions ends.
"""

import sys

from taken_back import unshare

from neuralese.pipeline.cli.app import main

unshare()
main(["train", *sys.argv[1:]])
