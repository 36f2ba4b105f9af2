"""Settings of the learner: objective, optimizer, backend, and how a step is cut into updates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from actors.learner.objective_config import GmpoConfig, ObjectiveConfig
from actors.resources import CustomResources, Gpus
from actors.section import Section

Decay = Annotated[float, Field(ge=0, lt=1)]


class AdamWConfig(Section):
    """AdamW and its learning-rate schedule; one update is one optimizer step."""

    lr: float = Field(1e-6, gt=0)
    """Learning rate after warm-up."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
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
    cpu_offload: bool = False
    """Keep parameters, gradients and optimizer state of GPUs in host memory; the optimizer then runs on the CPU."""


class DeepSpeedConfig(Section):
    """DeepSpeed's ZeRO: optimizer state and gradients split over ranks (stage 2), parameters too (stage 3)."""

    type: Literal["deepspeed"] = "deepspeed"
    stage: Literal[2, 3] = 2
    """ZeRO stage."""
    offload_optimizer: bool = False
    """Keep the optimizer state and its work on the CPU."""


BackendConfig = Annotated[Fsdp2Config | DeepSpeedConfig, Field(discriminator="type")]


class LoraConfig(Section):
    """Low-rank adapters on the decoder's linear layers (arXiv 2106.09685); the merged weights are what engines and files get."""

    rank: int = Field(32, gt=0)
    """Columns of each adapter."""
    alpha: int = Field(64, gt=0)
    """Adapters are scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the layers to adapt, such as q_proj; all-linear takes every linear layer but the output layer."""


class ZScoreAdvantage(Section):
    """(reward - group mean) / (group standard deviation + epsilon), over graded responses (GRPO, arXiv 2402.03300; GMPO)."""

    type: Literal["z_score"] = "z_score"
    ddof: Literal[0, 1] = 1
    """1 takes the unbiased standard deviation, as the paper's code does."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the standard deviation."""


class MeanAdvantage(Section):
    """reward - group mean (Dr. GRPO, arXiv 2503.20783)."""

    type: Literal["mean"] = "mean"


class RlooAdvantage(Section):
    """reward - mean of the group's other rewards (RLOO, arXiv 2402.14740)."""

    type: Literal["rloo"] = "rloo"


class ReinforceAdvantage(Section):
    """Rewards whitened over the whole step (REINFORCE++, arXiv 2501.03262)."""

    type: Literal["reinforce_pp"] = "reinforce_pp"
    baseline: bool = True
    """First subtract each group's mean, the paper's variant for groups."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the standard deviation."""


AdvantageConfig = Annotated[ZScoreAdvantage | MeanAdvantage | RlooAdvantage | ReinforceAdvantage, Field(discriminator="type")]


class KlConfig(Section):
    """What moving away from the reference costs. Per token, with d = log pi_ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1."""

    coefficient: float = Field(0.0, ge=0)
    """Weight; the paper uses 0, which leaves the term out."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator. In the loss only k2 has the gradient of the KL (k1's is 0 on average, k3's is that of KL(reference || policy))."""
    place: Literal["loss", "reward"] = "loss"
    """loss: mean over a response's tokens, then over responses, added to the loss. reward: sum over a response's tokens, taken
    off its reward before advantages, with the log-probs it was sampled with."""


class NoCorrection(Section):
    """Leave the difference between engine and learner alone."""

    type: Literal["none"] = "none"


class TisCorrection(Section):
    """Truncated importance sampling: tokens weigh min(pi_learner / pi_engine, cap)."""

    type: Literal["tis"] = "tis"
    cap: float = Field(2.0, gt=0)
    """Greatest weight of a token."""


class Band(Section):
    """Ratios that are kept."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high ({self.high}); nothing would be kept")
        return self


class IcePopCorrection(Band):
    """IcePop: tokens weigh pi_learner / pi_engine, and nothing outside [low, high]."""

    type: Literal["icepop"] = "icepop"
    low: float = Field(0.5, ge=0)
    """Least ratio that is kept."""
    high: float = Field(5.0, gt=0)
    """Greatest ratio that is kept."""


class GeometricMaskCorrection(Band):
    """Responses whose geometric-mean ratio pi_learner / pi_engine lies outside [low, high] are left out whole; the others weigh 1."""

    type: Literal["geometric_mask"] = "geometric_mask"
    low: float = Field(0.99, ge=0)
    """Least mean ratio that is kept."""
    high: float = Field(1.01, gt=0)
    """Greatest mean ratio that is kept."""


CorrectionConfig = Annotated[
    NoCorrection | TisCorrection | IcePopCorrection | GeometricMaskCorrection,
    Field(discriminator="type"),
]


class LearnerConfig(Section):
    """How the policy learns from a step's rollouts."""

    ranks: int = Field(1, gt=0)
    """Processes of the learner group; the policy is sharded over them."""
    updates_per_step: int = Field(8, gt=0)
    """Optimizer steps made from one step's rollouts; must divide prompts_per_step x group_size. The paper: 8."""
    objective: ObjectiveConfig = GmpoConfig()
    """What is optimised."""
    advantage: AdvantageConfig = ZScoreAdvantage()
    """How rewards become advantages."""
    denominator: Literal["recomputed", "behaviour"] = "recomputed"
    """The ratio's denominator: log-probs recomputed once before the step's first update, or those the engine sampled with."""
    correction: CorrectionConfig = NoCorrection()
    """How rollouts are weighed for the difference between the engine's log-probs and the learner's recomputed ones."""
    kl: KlConfig = KlConfig()
    """What moving away from the reference costs."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy bonus: mean over a response's tokens, then over responses, taken off the loss; the paper uses 0."""
    skip_zero_advantage: bool = True
    """Spend no computation on groups whose advantages are all 0. They stay in the totals, so the gradient is the same."""
    optimizer: AdamWConfig = AdamWConfig()
    """The optimizer."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm over all parameters."""
    max_skipped_updates: int = Field(5, gt=0)
    """An update whose loss or gradient is not finite is skipped on all ranks; so many in a row end the run."""
    backend: BackendConfig = Fsdp2Config()
    """How parameters are spread over ranks."""
    activation_checkpointing: bool = False
    """Recompute each decoder layer in the backward pass: less memory, a third more work."""
    compile: bool = False
    """Compile each decoder layer by torch.compile; the first batches then take minutes."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    micro_batch_tokens: int = Field(16_384, gt=0)
    """Tokens of one forward and backward pass on one rank, prompts included; a longer response is a pass alone."""
    threads: int = Field(1, gt=0)
    """CPU threads of one rank."""
    cpus: float = Field(0.25, ge=0)
    """Ray CPU share of one rank."""
    gpus: Gpus = Field(1, le=1)
    """GPUs of one rank where the cluster has any; below 1 a single rank shares one."""
    resources: CustomResources = Field(default_factory=dict)
    """Custom Ray resources of one rank; it goes only to a node that offers them."""
    checkpoint_every: int = Field(10, gt=0)
    """Steps between two checkpoints; the last step always makes one."""
    keep_checkpoints: int = Field(2, ge=2)
    """Checkpoints kept; older ones are deleted. Two at least: one stays whole while the next is written."""
    max_restarts: int = Field(2, ge=0)
    """Times the group may be restarted after a failure."""

    @property
    def trusts_engine_logprobs(self) -> bool:
        """Whether the engine's log-probs enter the loss or the rewards, and not the figures alone."""
        pays = self.kl.coefficient > 0 and self.kl.place == "reward"
        return pays or self.denominator == "behaviour" or not isinstance(self.correction, NoCorrection)

    @model_validator(mode="after")
    def _fits_itself(self) -> LearnerConfig:
        if 0 < self.gpus < 1 and self.ranks > 1:
            raise ValueError(f"gpus: {self.ranks} ranks need a whole GPU each; NCCL refuses two ranks on one")
        in_loss = self.kl.coefficient > 0 and self.kl.place == "loss"
        if self.skip_zero_advantage and (in_loss or self.entropy_coefficient > 0):
            raise ValueError("skip_zero_advantage: true would hide groups from the KL term and the entropy bonus; set it to false")
        if self.denominator == "behaviour" and not isinstance(self.correction, NoCorrection):
            raise ValueError(
                "correction: a ratio to the behaviour policy needs none; set correction.type to none, or denominator to recomputed"
            )
        return self
