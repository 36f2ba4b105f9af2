"""What every answer says about the version that gave it."""

from __future__ import annotations

from actors.weights.manifest import Manifest

STEP_HEADER, WEIGHTS_HEADER = "x-gmpo-step", "x-gmpo-weights"
AGE_SECONDS_HEADER, AGE_STEPS_HEADER = "x-gmpo-age-seconds", "x-gmpo-age-steps"


def version_headers(manifest: Manifest, age_s: int, age_steps: int) -> dict[str, str]:
    """The step, the weights, the whole seconds since they were written, and the steps that the run has trained since."""
    return {
        STEP_HEADER: str(manifest.step),
        WEIGHTS_HEADER: manifest.weights_short,
        AGE_SECONDS_HEADER: str(age_s),
        AGE_STEPS_HEADER: str(age_steps),
    }
