"""How a report looks: its frame and its style sheet, both without a script."""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>
{question}{lead}</header>
{contents}
{bodies}
</main>
</body>
</html>
"""

_BASE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1d2126; --soft: #5a636e; --line: #dde1e6; --panel: #f5f7f9;
  --link: #0b5cad;
  --good: #0a5c36; --good-bg: #d9f2e3; --bad: #8c1d18; --bad-bg: #fbe0de;
  --warn: #6b4700; --warn-bg: #fdeabf; --muted: #4a535d; --muted-bg: #e6eaee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --ink: #e4e7ea; --soft: #a0a9b3; --line: #333a42; --panel: #1d2227;
    --link: #7db8f5;
    --good: #a5e5bf; --good-bg: #123d27; --bad: #ffb9b3; --bad-bg: #551b18;
    --warn: #ffd98a; --warn-bg: #4a3506; --muted: #c3cad2; --muted-bg: #343c45;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
    sans-serif;
}
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; text-wrap: balance; }
h2 {
  font-size: 1.4rem; line-height: 1.3; margin: 3rem 0 0.8rem; padding-top: 1rem;
  border-top: 1px solid var(--line);
}
p, ul { max-width: 46rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
ul { padding-left: 1.3rem; }
.lead { font-size: 1.12rem; }
.question { font-size: 1.25rem; font-weight: 600; line-height: 1.4; }
.lead p, .lead ul { max-width: 48rem; }
a { color: var(--link); }
nav {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.9rem 1.2rem; margin: 1.8rem 0 0;
}
nav ol { margin: 0; padding-left: 1.4rem; columns: 18rem auto; column-gap: 2.5rem; }
nav li { break-inside: avoid; padding-left: 0.2rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0 0 1.5rem; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; }
table { border-collapse: collapse; font-size: 0.92rem; line-height: 1.45; max-width: 100%; }
caption {
  caption-side: top; text-align: left; color: var(--soft); padding: 0 0 0.5rem;
  font-size: 0.92rem;
}
th, td {
  text-align: left; vertical-align: top; padding: 0.45rem 1.2rem 0.45rem 0;
  border-bottom: 1px solid var(--line); max-width: 36rem;
}
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
th.number, td.number, th.range, td.range { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
th.wordy, td.wordy { min-width: 12rem; }
td.long { overflow-wrap: anywhere; }
td > .head { display: none; }
td > details { border: 0; padding: 0; margin: 0; }
td > details > summary { font-weight: inherit; }
td > details > div {
  color: var(--soft); border-left: 3px solid var(--line); margin: 0.4rem 0; padding-left: 0.8rem;
}
td > details p, td > details ul { margin-bottom: 0.5rem; }
.badge {
  display: inline-block; white-space: nowrap; font-size: 0.85rem; font-weight: 600;
  line-height: 1.5; padding: 0 0.55rem; border-radius: 1rem;
}
.badge.sign { min-width: 1.8rem; text-align: center; padding: 0 0.4rem; }
.badge.good { color: var(--good); background: var(--good-bg); }
.badge.bad { color: var(--bad); background: var(--bad-bg); }
.badge.warn { color: var(--warn); background: var(--warn-bg); }
.badge.muted { color: var(--muted); background: var(--muted-bg); }
figure { margin: 1.5rem 0 2.2rem; position: relative; }
.sheet {
  background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem;
  margin: 0;
}
.sheet label { display: block; cursor: zoom-in; }
.sheet img { display: block; width: auto; max-width: 100%; height: auto; margin: 0 auto; }
.zoom { position: absolute; opacity: 0; }
.zoom:focus-visible + .sheet { outline: 2px solid var(--link); outline-offset: 3px; }
.zoom:checked + .sheet label { cursor: zoom-out; width: max-content; }
.zoom:checked + .sheet img { max-width: none; }
figcaption { color: var(--soft); font-size: 0.92rem; margin-top: 0.6rem; max-width: 52rem; }
figcaption strong { color: var(--ink); }
details {
  border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 1rem; margin: 0 0 1rem;
}
details > summary { cursor: pointer; font-weight: 600; }
details[open] > summary { margin-bottom: 0.8rem; }
details > :last-child { margin-bottom: 0.4rem; }
"""

_STACKED = """
@media (max-width: %width) {
  .%name, .%name > tbody, .%name > caption { display: block; }
  .%name > thead { display: none; }
  .%name > tbody > tr {
    display: block; border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.8rem;
    margin: 0 0 0.8rem;
  }
  .%name > tbody > tr > td {
    display: grid; grid-template-columns: minmax(6rem, 38%) minmax(0, 1fr); gap: 0 0.8rem;
    border: 0; padding: 0.15rem 0; max-width: none; min-width: 0; text-align: left;
    overflow-wrap: anywhere; justify-items: start; align-items: start;
  }
  .%name > tbody > tr > td > .head { display: block; color: var(--soft); white-space: normal; }
  .%name > tbody > tr > td.label { display: block; font-weight: 600; }
  .%name > tbody > tr > td.label > .head, .%name > tbody > tr > td.empty { display: none; }
}
"""
"""Rows as blocks, on pages narrower than a width."""

_LAST = """
@media (max-width: 42rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.55rem; }
  h2 { font-size: 1.25rem; margin-top: 2.2rem; }
}
@media print {
  main { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""


def _stacked(name: str, width: str) -> str:
    return _STACKED.replace("%width", width).replace("%name", name)


STYLE = _BASE + _stacked("early", "70rem") + _stacked("stack", "42rem") + _LAST
