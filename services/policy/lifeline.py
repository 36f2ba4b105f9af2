"""Ends the engine's process with the replica that started it.

vLLM imports the module inside the engine's process, as its `worker_extension_cls`. With tensor parallelism the class lands in the
workers, which vLLM itself ends with their engine.
"""

from __future__ import annotations

from actors.lifeline import die_with_parent


class Lifeline:
    """Carries the call into the engine; adds nothing to the worker."""


die_with_parent()
