"""How wide a page really is: a headless browser's answer, where there is one."""

import html
import json
import re
import shutil
import subprocess

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

_MEASURE = """<script>addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, wide = [];
    for (const box of [page.documentElement, ...page.querySelectorAll(".scroll")])
      if (box.scrollWidth > box.clientWidth) wide.push(box.outerHTML.slice(0, 200));
    for (const head of page.querySelectorAll("td > .head")) {
      const place = parseFloat(getComputedStyle(head.parentElement).gridTemplateColumns);
      if (head.getBoundingClientRect().width > place + 1) wide.push(head.textContent);
    }
    found[frame.dataset.width] = {wide, tables: page.querySelectorAll("table").length,
      blocks: [...page.querySelectorAll("td")].filter(
        cell => getComputedStyle(cell).display == "grid").length};
  }
  document.body.textContent = JSON.stringify(found);
})</script>"""


def measured(text, folder, widths):
    """Width in pixels -> "wide": boxes whose content is wider than they are, "tables": how many
    tables there are, "blocks": cells that are shown below one another.

    Args:
        text: a page.
        folder: for a file.
        widths: of the window.
    """
    frames = "".join(
        f'<iframe style="border:0;height:900px;width:{width}px" data-width="{width}" '
        f'srcdoc="{html.escape(text)}"></iframe>'
        for width in widths
    )
    (folder / "frames.html").write_text(f"<body>{frames}{_MEASURE}", encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    command += [f"--user-data-dir={folder / 'browser'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "frames.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    (body,) = re.findall(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    return {int(width): found for width, found in json.loads(html.unescape(body)).items()}
