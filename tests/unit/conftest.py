from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in every run, and none fails because the machine was busy.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")
