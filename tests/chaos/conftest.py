"""Real runs, as the integration tests start them."""

from __future__ import annotations

from tests.integration.conftest import gmpo as gmpo
from tests.integration.conftest import warm_model as warm_model
