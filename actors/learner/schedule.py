"""The learning rate of an update: linear warm-up, then constant, linear or cosine. A pure function: resuming needs only a number."""

from __future__ import annotations

import math

from actors.learner.config import AdamWConfig


def learning_rate(config: AdamWConfig, update: int, total: int) -> float:
    """Learning rate of update number `update` (0, 1, ...) of `total`."""
    if update < config.warmup_updates:
        return config.lr * (update + 1) / config.warmup_updates
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (update - config.warmup_updates) / max(1, total - 1 - config.warmup_updates))
    weight = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.lr_end + (config.lr - config.lr_end) * weight
