"""Settings of the learner: objective, optimizer, backend, and how a step is cut into updates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from actors.learner.objective_config import GmpoConfig, ObjectiveConfig
from actors.section import Section


class AdamWConfig(Section):
    """AdamW and its learning-rate schedule; one update is one optimizer step."""

    lr: float = Field(1e-6, gt=0)
    """Learning rate after warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moments."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate over the run, down to lr_end."""
    lr_end: float = Field(0.0, ge=0)
    """Learning rate at the last update, for linear and cosine."""
    warmup_updates: int = Field(0, ge=0)
    """Updates over which the learning rate rises linearly from 0."""


class Fsdp2Config(Section):
    """PyTorch's fully sharded data parallelism, second generation: parameters, gradients and optimizer state split over ranks."""

    type: Literal["fsdp2"] = "fsdp2"
    activation_checkpointing: bool = False
    """Recompute each decoder layer in the backward pass: less memory, a third more work."""


BackendConfig = Annotated[Fsdp2Config, Field()]


class AdvantageConfig(Section):
    """Group z-score advantages: (reward - group mean) / (group standard deviation + epsilon), over graded responses only."""

    ddof: Literal[0, 1] = 1
    """1 takes the unbiased standard deviation, as the paper's code does."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the standard deviation."""
    normalize: bool = True
    """Divide by the standard deviation; False leaves reward - mean (Dr. GRPO)."""


class LearnerConfig(Section):
    """How the policy learns from a step's rollouts."""

    ranks: int = Field(1, gt=0)
    """Processes of the learner group; the policy is sharded over them."""
    updates_per_step: int = Field(8, gt=0)
    """Optimizer steps made from one step's rollouts; must divide prompts_per_step x group_size. The paper: 8."""
    objective: ObjectiveConfig = GmpoConfig()
    """What is optimised."""
    advantage: AdvantageConfig = AdvantageConfig()
    """How rewards become advantages."""
    denominator: Literal["recomputed", "behaviour"] = "recomputed"
    """The ratio's denominator: log-probs recomputed once before the step's first update, or those the engine sampled with."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the k3 estimate of KL(policy || reference) added to the loss, mean over tokens; the paper uses 0."""
    skip_zero_advantage: bool = True
    """Spend no computation on groups whose advantages are all 0. They stay in the totals, so the gradient is the same."""
    optimizer: AdamWConfig = AdamWConfig()
    """The optimizer."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm over all parameters."""
    backend: BackendConfig = Fsdp2Config()
    """How parameters are spread over ranks."""
    micro_batch_tokens: int = Field(16_384, gt=0)
    """Tokens (padding included) of one forward and backward pass on one rank."""
    threads: int = Field(1, gt=0)
    """CPU threads of one rank."""
    cpus: float = Field(0.25, ge=0)
    """Ray CPU share of one rank."""
    gpus: float = Field(1, ge=0)
    """GPUs of one rank where the cluster has any."""
    checkpoint_every: int = Field(10, gt=0)
    """Steps between two checkpoints; the last step always makes one."""
    keep_checkpoints: int = Field(2, ge=2)
    """Checkpoints kept; older ones are deleted. Two at least: one stays whole while the next is written."""
    max_restarts: int = Field(2, ge=0)
    """Times the group may be restarted after a failure."""

    @model_validator(mode="after")
    def _kl_needs_all_groups(self) -> LearnerConfig:
        if self.kl_coefficient > 0 and self.skip_zero_advantage:
            raise ValueError("skip_zero_advantage: true would hide groups from the KL term; set it to false, or kl_coefficient to 0")
        return self
