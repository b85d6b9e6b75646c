"""How tables look: aligned text for a terminal, HTML for a notebook."""

import html
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows, right: Sequence[int] = ()) -> list[str]:
    """Aligned lines; the columns of `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def html_table(rows: Rows, right: Sequence[int] = (), above: str = "", below: str = "") -> str:
    """An HTML table whose first row is its head, with a line of text above and below."""

    def line(row: Sequence[str], tag: str) -> str:
        cells = (
            f'<{tag} style="text-align:{"right" if i in right else "left"}">{html.escape(cell)}'
            f"</{tag}>"
            for i, cell in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "td") for row in rows[1:])
    table = f"<table><thead>{line(rows[0], 'th')}</thead><tbody>{body}</tbody></table>"
    around = [f"<div>{html.escape(text)}</div>" if text else "" for text in (above, below)]
    return f"<div>{around[0]}{table}{around[1]}</div>"


def shortened(lines: list[str], most: int) -> list[str]:
    """As many lines as fit, and how many more there are."""
    return (
        lines if len(lines) <= most else [*lines[: most - 1], f"... {len(lines) - most + 1} more"]
    )
