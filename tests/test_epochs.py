"""An epoch of a curriculum level is a pass over the problems."""

from collections import Counter

from runs import tiny

from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.curriculum import visit

OPTIONS = [
    "rl=null", "tracking.wandb=false", "curriculum.promote_at=null", "curriculum.mix_earlier=0", "evaluate.sampling=[]",
    "curriculum.steps_per_level=[all]", "curriculum.trainer={num_train_epochs: 2, per_device_train_batch_size: 8}",
    "curriculum.eval_every=100",
]  # fmt: skip


def test_a_level_trains_on_each_problem_once_an_epoch(tmp_path, monkeypatch):
    trained = []

    class Spy(visit.Collator):
        def __call__(self, examples):
            trained.extend(tuple(example["input_ids"]) for example in examples)
            return super().__call__(examples)

    monkeypatch.setattr(visit, "Collator", Spy)
    run(tiny(tmp_path, *OPTIONS))
    first, second = trained[:184], trained[184:]  # 200 problems, 16 of them held out
    assert len(second) == 184 and set(Counter(first).values()) == {1} and Counter(first) == Counter(second)
    assert first != second
