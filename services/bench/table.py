"""A benchmark's report on the screen."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from services.bench.results import Report


def show(report: Report, out: Console) -> None:
    """Rows, ratios with their aims, and how to read them."""
    out.print(f"{report.bench}: {report.device}", markup=False)
    tables = _rows(report), _ratios(report)
    # As wide as figures need, whatever the screen: a broken number is worse than a broken line, and a pipe has no width.
    width = max(Measurement.get(out, out.options.update(max_width=1_000), table).maximum for table in tables)
    wide = Console(file=out.file, width=max(out.width, width), highlight=False)
    for table in tables:
        wide.print(table)
    for note in report.notes:
        out.print(f"  {note}", style="dim", markup=False)


def _rows(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for row in report.rows for name in row))
    shown = [name for name in names if any(row.get(name) is not None for row in report.rows)]
    for name in shown:
        table.add_column(name.replace("_", " "), justify="left" if _is_text(name, report) else "right")
    for row in report.rows:
        table.add_row(*(_figure(row.get(name)) for name in shown))
    return table


def _ratios(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in (("ratio", "left"), ("median", "right"), ("least", "right"), ("greatest", "right"), ("aim", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    aims: Mapping[str, str] = {aim.ratio: f"{aim.kind} {_figure(aim.bound)}: {'met' if aim.met else 'NOT MET'}" for aim in report.aims}
    for name, spread in report.ratios.items():
        table.add_row(name.replace("_", " "), _figure(spread.median), _figure(spread.low), _figure(spread.high), aims.get(name, ""))
    return table


def _is_text(name: str, report: Report) -> bool:
    return any(isinstance(row.get(name), str) for row in report.rows)


def _figure(value: str | float | int | None) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case int():
            return f"{value:,}"
        case _:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
