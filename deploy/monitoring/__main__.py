"""Writes the rules and dashboards into the chart."""

from deploy.monitoring.files import FOLDER, rendered

for path, text in rendered().items():
    (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
    (FOLDER / path).write_text(text, encoding="utf-8")
