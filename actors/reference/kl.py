"""What a response costs where the reward pays for moving away from the reference."""

from __future__ import annotations

from typing import Literal

import numpy as np

from actors.types import FloatArray, Rollout

Estimator = Literal["k1", "k2", "k3"]

_CLAMP = 20.0


def summed_kl(rollout: Rollout, reference: FloatArray, estimator: Estimator) -> float:
    """Estimate of KL(behaviour || reference), summed over the tokens that the policy sampled. reference: [T].

    With d = log pi_ref - log pi_behaviour, clamped to +-20: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 (the three estimators of
    J. Schulman's note "Approximating KL Divergence", 2020). 0 for an empty response.
    """
    difference = reference[rollout.mask].astype(np.float64) - rollout.logprobs[rollout.mask]
    difference = np.clip(difference, -_CLAMP, _CLAMP)
    match estimator:
        case "k1":
            return float(np.sum(-difference))
        case "k2":
            return float(np.sum(difference**2) / 2)
        case "k3":
            return float(np.sum(np.expm1(difference) - difference))
