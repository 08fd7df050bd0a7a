"""TRL's GRPOTrainer over a latent reasoner: how likely the actions of rollouts are.

`_get_per_token_logps_and_entropies` is the one place where TRL asks for log-probs, of the policy, of the weights that
drew the rollouts (which are known as sampled), and of the reference. `LatentGRPOTrainer` draws the rollouts and
computes the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from ...latent.batch import Draw, Given
from ...latent.engine.compiling import compile_layers
from ...latent.latentize import latentize
from ...model.reasoner import Reasoner
from ...system.compat import attention_implementation, is_compiled
from .call_state import Working
from .estimators import density_logps, replayed_logps
from .logps import ActionLogps, Answers
from .measured import MeasuredTrainer
from .rollouts import RolloutSettings, decisions_of
from .rollouts_table import RolloutsTable
from .step_labels import StepLabels, at_placeholders


class LatentTrainer(Working, MeasuredTrainer, GRPOTrainer):
    """A GRPOTrainer whose rollouts think in latents before they answer.

    Attributes:
        decisions: Those of a stop head in the longest thought, L - 1; 0: the number of latents is fixed.
    """

    def __init__(self, reasoner: Reasoner, settings: RolloutSettings, **kwargs: Any) -> None:
        self.reasoner, self.settings, self.noise = reasoner, settings, settings.noise
        self.step_labels: StepLabels | None = None  # the stage sets them, and on the main process
        self.table: RolloutsTable | None = None  # this, where tables are recorded
        super().__init__(model=reasoner.model, processing_class=reasoner.tokenizer, **kwargs)
        self.decisions = decisions_of(reasoner.config)
        self.eos_token_ids = reasoner.eos_token_ids  # a chat also ends with its turn
        self.aux_loss_enabled = False  # the replay does not return the load-balancing loss of mixtures of experts
        if self.ref_model is not None:
            # TRL loads the reference as a plain model and gives it a forward of its own.
            reference = self.accelerator.unwrap_model(self.ref_model)
            reference.__dict__.pop("forward", None)
            latentize(reference, reasoner.config)
            reference.set_attn_implementation(attention_implementation(reasoner.model.config))
            reference.thought_source.load_state_dict(reasoner.model.thought_source.state_dict())
            if is_compiled(reasoner.model):
                compile_layers(reference)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor | None, Tensor | None, None]:
        """Log-probs and entropies (B, A) of the answer tokens in nats, at the rollout temperature.

        Other actions follow as `Work.others` says, (B, A + K), with the mean entropy of the tokens.
        """
        work = self.work
        if work.knows_old:
            work.knows_old = False
            return None, None, None
        answers = Answers(input_ids, attention_mask, logits_to_keep).without(work.others)
        if work.latents_act:
            found = self._density_logps(model, answers)
        else:
            parts = torch.arange(len(input_ids)).split(batch_size or len(input_ids))
            found = ActionLogps.joined([self._replayed_logps(model, answers, part) for part in parts])
        work.logps = found.logps[:, : answers.width].detach()
        work.state_values = found.state_values
        work.supervision_loss = found.supervision_loss
        if self.decisions:
            assert found.stop_logps is not None
            work.stop_logps = found.stop_logps.detach()
            found = found.beside(found.stop_logps, answers) if work.others else found
        if work.others and "ref_per_token_logps" in work.rollouts:
            # The KL estimate of TRL is a ratio, which densities of many dimensions blow up. Equal to the policy's own,
            # other actions add neither value nor gradient: the KL is that of the answers.
            work.rollouts["ref_per_token_logps"][:, answers.width :] = found.logps[:, answers.width :].detach()
        return found.logps, found.entropies if compute_entropy else None, None

    def _replayed_logps(self, model: Any, answers: Answers, part: Tensor) -> ActionLogps:
        """Log-probs of some rollouts (B',), whose latents are made again from their seeds."""
        seeds = self.work.rollouts["noise_seeds"]
        assert len(seeds) == len(answers.ids)
        draw = Draw(self.noise, seeds[part]) if self.noise is not None else None
        some, labels = answers.select(part), self.work.rollouts.get("slot_labels")
        if labels is not None:
            labels = at_placeholders(labels[part], some.ids, self.reasoner.config.token_ids[1])
        with self.replaying(some, torch.is_grad_enabled()):
            return replayed_logps(model, some, draw, self.temperature, self.reasoner.config.token_ids, labels)

    def _density_logps(self, model: Any, answers: Answers) -> ActionLogps:
        """Log-probs of answers and latents (B, A + L), whose latents are taken as they were drawn."""
        assert self.noise is not None
        rollouts = self.work.rollouts
        given = Given(rollouts["latents"], self.noise, rollouts.get("latent_rms"))
        special = self.reasoner.config.token_ids
        with self.replaying(answers, torch.is_grad_enabled()):
            return density_logps(model, self.settings.estimator, answers, given, self.temperature, special)
