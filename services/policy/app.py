"""The Serve application: one replica that answers OpenAI's API with the newest good policy version of a run.

    HTTP -> Serve proxy -> Gate (allow-list, version headers) -> vLLM's OpenAI application -> AsyncLLM -> engine process

The replica picks its version once, when it starts; a bad newest version is passed over and named in /health.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from actors.section import Section
from services.policy.catalogue import Catalogue
from services.policy.config import ServeConfig
from services.policy.engine import ServingEngine
from services.policy.gate import Gate

APP_NAME = "policy"
STOP_S = 20.0


class ServeArgs(Section):
    """What `build` needs; Serve parses it where the application is named in a config file."""

    run_dir: Path
    """The run directory, on a file system the replica sees."""
    serve: ServeConfig = ServeConfig()
    """The recipe's `serve` section."""


class PolicyServer:
    """The replica. A failed engine fails the health check, and Serve starts another replica in its place."""

    def __init__(self, run_dir: Path, config: ServeConfig) -> None:
        self.selection = Catalogue(run_dir).select()
        # The first name is the one answers carry: it says which step spoke, also where "policy" was asked for.
        names = [f"policy@step-{self.selection.manifest.step}", "policy"]
        self.engine = ServingEngine(config, self.selection.path, names)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        return Gate(await self.engine.application(), self.selection.manifest, self.health)

    async def health(self) -> tuple[int, Mapping[str, Any]]:
        """Status code and body of /health: 503 once the engine has died."""
        dead = self.engine.llm.errored
        return 503 if dead else 200, {
            "status": "engine dead" if dead else "ok",
            "step": self.selection.manifest.step,
            "weights": self.selection.manifest.weights_sha256,
            "created": self.selection.manifest.created.isoformat(),
            "running": self.engine.running(),
            "refused": [{"step": refusal.step, "reason": refusal.reason} for refusal in self.selection.refused],
            "pids": [process.pid for process in self.engine.processes],
        }

    async def check_health(self) -> None:
        """Called by Serve."""
        await self.engine.llm.check_health()

    def __del__(self) -> None:
        """Called by Serve when the replica goes; there is nothing to stop if the engine never came up."""
        if engine := self.__dict__.get("engine"):
            engine.stop()


def build(args: ServeArgs) -> serve.Application:
    """The application, ready for `serve.run` or a Serve config file (`services.policy.app:build`)."""
    config = args.serve
    deploy = serve.deployment(
        name="policy",
        max_ongoing_requests=config.max_running,
        max_queued_requests=config.max_waiting,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=STOP_S,
        # A version that does not load at the first try will not at the second.
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
    )
    application: serve.Application = deploy(serve.ingress()(PolicyServer)).bind(args.run_dir, config)
    return application
