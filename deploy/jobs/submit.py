"""Submits a recipe of this checkout to a Ray cluster and follows what it prints; Ctrl-C leaves it running.

    python deploy/jobs/submit.py deploy/recipes/tiny.yaml run.root=/runs run.steps=200

RAY_API_SERVER_ADDRESS (or --address) says where the cluster's dashboard is, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH what opens it.
The same command again goes on with the run.
"""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated

import typer
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from actors.errors import ConfigError
from services.config import load_recipe

CHECKOUT = Path(__file__).parents[2]
RUNTIME_ENV = Path(__file__).with_name("runtime_env.yaml")


def main(
    recipe: Annotated[Path, typer.Argument(help="A recipe within the checkout.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value")] = None,
    address: Annotated[str | None, typer.Option(help="URL of the dashboard.", envvar="RAY_API_SERVER_ADDRESS")] = None,
    cpus: Annotated[float, typer.Option(help="CPUs of the driver.")] = 1.0,
    resource: Annotated[str | None, typer.Option(help="Custom resource of the node on which the driver is to be.")] = None,
) -> None:
    """Submit, and follow until the job ends; the exit status is 0 where it succeeded."""
    try:
        name = load_recipe(recipe, overrides or []).run.name  # what is wrong with it is told here, not by the cluster
        entrypoint = _entrypoint(recipe, overrides or [])
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    client = JobSubmissionClient(address)
    job = client.submit_job(
        entrypoint=entrypoint,
        runtime_env=yaml.safe_load(RUNTIME_ENV.read_text(encoding="utf-8")) | {"working_dir": str(CHECKOUT)},
        metadata={"run": name},
        entrypoint_num_cpus=cpus,
        entrypoint_resources={resource: 0.001} if resource else None,
    )
    typer.echo(f"submitted {job}", err=True)
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        typer.echo(f"{job} goes on; follow it by: ray job logs -f {job}", err=True)
        return
    if (status := client.get_job_status(job)) != JobStatus.SUCCEEDED:
        typer.echo(f"{job}: {status}", err=True)
        raise typer.Exit(1)


def _entrypoint(recipe: Path, overrides: list[str]) -> str:
    """The command line of the driver, in the copy of the checkout that the cluster gets."""
    if not recipe.resolve().is_relative_to(CHECKOUT):
        raise ConfigError(f"{recipe}: lies outside of {CHECKOUT}, which is all that the cluster gets to see")
    return shlex.join(["python", "-m", "services.cli", "train", str(recipe.resolve().relative_to(CHECKOUT)), *overrides])


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        typer.echo(lines, nl=False)


if __name__ == "__main__":
    typer.run(main)
