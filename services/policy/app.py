"""The Serve application: replicas that answer OpenAI's API with any policy version of a run.

    HTTP ──► Gate (keys, limits) ──► routes ──► desk: which version, which engine ──► vLLM's OpenAI layer ──► engine process

Built from Python by `serve.run(build(args))`, and by `serve run`, `serve deploy` and a RayService from a Serve config file that names
`import_path: services.policy.app:build` with `args` of the fields of `ServeArgs`.
"""

# No postponed annotations here: Serve looks at the class that `build` takes to turn a config file's args into one.
from pathlib import Path

from ray import serve
from starlette.types import ASGIApp

from actors.errors import ConfigError
from actors.section import Section
from services.policy.config import ServeConfig
from services.policy.keys import Key, KeyRing

APP_NAME = "policy"
STOP_S = 20.0
NET = 32
"""Times as many requests as a replica takes: how many of them Serve passes on to be refused."""


class ServeArgs(Section):
    """What `build` needs; Serve parses it where the application is named in a config file."""

    run_dir: Path
    """The run directory, on a file system the replicas see."""
    policies: str | None = None
    """Path or URL of the folder of versions; by default `policies` in the run directory."""
    cache: Path | None = None
    """Directory into which versions from a URL are copied; by default one of the user's cache."""
    serve: ServeConfig = ServeConfig()
    """The recipe's `serve` section."""
    keys: tuple[Key, ...] = ()
    """Keys beside those of `serve.keys_file`."""


class PolicyServer:
    """One replica."""

    def __init__(self, args: ServeArgs) -> None:
        self._args = args

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        # Imported here, where vLLM's environment can still be chosen.
        from services.policy.engine import prepare_environment

        args, config = self._args, self._args.serve
        prepare_environment(config)
        from services.policy.api import build_api
        from services.policy.desk import Desk, Place
        from services.policy.gate import Gate
        from services.policy.meter import Meter
        from services.policy.page import page_routes
        from services.policy.run_view import run_routes

        keys = KeyRing(args.keys, Path(config.keys_file) if config.keys_file else None)
        place = Place(args.run_dir, args.policies or str(args.run_dir / "policies"), args.cache)
        self._desk = Desk(place, config, keys)
        await self._desk.open()
        meter = Meter()
        api = build_api(self._desk, meter, [page_routes(), run_routes(args.run_dir)])
        return meter.counting(Gate(api, config, keys))

    def check_health(self) -> None:
        """Called by Serve: a replica that does not look after its engines any more is replaced. Engines that die it replaces itself."""
        desk = self.__dict__.get("_desk")
        if desk is not None and not desk.follows:
            raise RuntimeError("nobody looks after the versions")

    async def __del__(self) -> None:
        """Called by Serve when the replica goes; there is nothing to stop if no engine came up."""
        if desk := self.__dict__.get("_desk"):
            await desk.close()


def build(args: ServeArgs) -> serve.Application:
    """The application. ConfigError where nobody would have a key to it."""
    config = args.serve
    if not (config.open or args.keys or config.keys_file):
        raise ConfigError("serve.keys_file: without keys nobody could ask anything; give a file of keys, or serve.open=true on loopback")
    deploy = serve.deployment(
        name="policy",
        num_replicas=config.replicas,
        # The gate refuses, faster and in words; Serve's own queue is a second net.
        max_ongoing_requests=NET * config.most_under_way,
        max_queued_requests=NET * config.most_under_way,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=STOP_S,
        health_check_period_s=5,
        # What does not come up at the first try will not at the second.
        max_constructor_retry_count=1,
        logging_config={"enable_access_log": False},
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
    )
    application: serve.Application = deploy(serve.ingress()(PolicyServer)).bind(args)
    return application
