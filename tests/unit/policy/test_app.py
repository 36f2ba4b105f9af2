from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's, when it is imported
def test_the_args_of_a_serve_config_file_become_the_builders() -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    from services.policy.app import build

    application = call_user_app_builder_with_args_if_necessary(build, {"run_dir": "/runs/mine", "serve": {"open": True, "replicas": 2}})
    (args,) = application._bound_deployment.init_args
    assert (args.run_dir, args.serve.open, args.serve.replicas) == (Path("/runs/mine"), True, 2)
    with pytest.raises(ConfigError, match=r"serve\.keys_file"):
        call_user_app_builder_with_args_if_necessary(build, {"run_dir": "/runs/mine"})
