"""One of two processes that open a run folder together: `held_together.py FOLDER` says what came of it."""

import sys

from runs import tiny

from neuralese.data.errors import UserError
from neuralese.pipeline.run.folder import LOCK, open_folder
from neuralese.pipeline.system.processes import join_processes, leave_processes

state = join_processes()
try:
    with open_folder(tiny(sys.argv[1]), resume=False):
        print("held", (tiny(sys.argv[1]).folder / LOCK).is_file())
        state.wait_for_everyone()  # the main process lets go
except UserError as error:
    print(type(error).__name__, error)
leave_processes()
