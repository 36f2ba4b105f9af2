"""The templates of the pages that runs are shown on, and the style sheet they share (page.css.j2)."""

from __future__ import annotations

from pathlib import Path

import jinja2

from services.telemetry.figures import number


def template(path: Path) -> jinja2.Template:
    """A template that escapes what it is given, fails on a name nobody gave it, and may include the files beside this module."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = number
    return environment.get_template(path.name)
