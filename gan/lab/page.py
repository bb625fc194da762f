"""All experiments on one page of HTML that needs nothing beside it: no script, no network, no other file."""

import base64
from html import escape
from pathlib import Path

from gan.errors import counted
from gan.lab.report import Report

CSS = """
:root { --ink: #222; --faint: #666; --line: #ddd; --pass: #00694d; --fail: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.25rem 6rem; max-width: 62.5rem; color: var(--ink); background: #fff;
       font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif; }
h1, h2 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 2.1rem; margin: 0 0 .75rem; }
h2 { font-size: 1.5rem; margin: 0 0 1rem; }
p { max-width: 44rem; margin: 0 0 1rem; }
a { color: #00558a; text-underline-offset: .15em; }
nav ol { padding-left: 1.6rem; max-width: 44rem; margin: 1.5rem 0 0; }
nav li { padding-left: .3rem; margin: .25rem 0; }
section { margin-top: 3rem; padding-top: 2.5rem; border-top: 1px solid var(--line); }
figure { margin: 0 0 1.5rem; }
figure img { display: block; width: 100%; height: auto; }
pre { max-width: 100%; overflow-x: auto; margin: 0 0 1rem; padding: 1rem 1.25rem; background: #f6f6f4;
      border-radius: 4px; font: .875rem/1.6 "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace; }
code { font: .84em "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace; }
table { border-collapse: collapse; margin: 0 0 1rem; width: 100%; font-size: .9375rem; line-height: 1.4;
        font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: normal; color: var(--faint); }
th, td { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
.pass { color: var(--pass); } .fail { color: var(--fail); font-weight: bold; }
.faint { color: var(--faint); font-size: .9375rem; }
h3 { font-size: 1.0625rem; margin: 1.5rem 0 .5rem; }
@media print { section { break-before: page; } }
"""


def page(reports: list[Report], out: Path) -> str:
    """The page.

    Args:
        reports: What was run, in order.
        out: The folder that holds one folder for each, with its `figure.svg`.
    """
    failed = [report for report in reports if report.result.failed]
    checks = sum(len(report.result.checks) for report in reports)
    seconds = sum(report.seconds for report in reports)
    sentence = (
        f"{counted(len(reports), 'experiment')} with {counted(checks, 'check')}, "
        f"run in {counted(round(seconds), 'second')} with seed {reports[0].seed}"
    )
    if failed:
        names = ", ".join(f'<a href="#{report.experiment.name}">{report.experiment.name}</a>' for report in failed)
        sentence += f'. <span class="fail">Checks failed in: {names}</span>'
    else:
        sentence += ". All checks passed"
    entries = "\n".join(
        f'<li><a href="#{report.experiment.name}">{escape(report.experiment.title)}</a>{failures(report)}</li>'
        for report in reports
    )
    sections = "\n".join(section(report, out) for report in reports)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>The vanishing-gradient lab</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>The vanishing-gradient lab</h1>
<p>Why gradients vanish and explode in deep networks and in GANs, and what cures it. Every claim is an experiment that
draws what it has measured and checks its own outcome. <code>python -m gan.cli lab NAME</code> runs one again;
what to try is Python: <code>from gan.lab.NAME import *; figure(run(...)).savefig("try.png")</code>.</p>
<p class="faint">{sentence}.</p>
<nav><ol>
{entries}
</ol></nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def section(report: Report, out: Path) -> str:
    """One experiment: title, figure, explanation, mathematics, reference, verdict."""
    experiment = report.experiment
    picture = base64.b64encode((out / experiment.name / "figure.svg").read_bytes()).decode()
    paragraphs = "\n".join(f"<p>{emphasised(paragraph)}</p>" for paragraph in experiment.explanation)
    rows = "\n".join(
        f'<tr><td>{escape(check.what)}</td><td class="number">{escape(check.asked)}</td>'
        f'<td class="number">{check.value:.4g}</td>'
        + ('<td class="pass">pass</td></tr>' if check.passed else '<td class="fail">fail</td></tr>')
        for check in report.result.checks
    )
    return f"""<section id="{experiment.name}">
<h2>{escape(experiment.title)}</h2>
<figure><img src="data:image/svg+xml;base64,{picture}" alt="{escape(experiment.title)}"></figure>
{paragraphs}
<h3>Mathematics</h3>
<pre>{escape(experiment.mathematics)}</pre>
<h3>Verdict</h3>
<table>
<thead><tr><th>check</th><th class="number">asked</th><th class="number">measured</th><th></th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p class="faint">{emphasised(experiment.reference)}.<br>
<code>lab {experiment.name} --seed {report.seed}</code>, {report.seconds:.1f} seconds.</p>
</section>"""


def emphasised(paragraph: str) -> str:
    """A paragraph as HTML: its first words bold where they are a heading such as "Why.", code in backticks."""
    head, stop, rest = paragraph.partition(". ")
    text = (
        f"<b>{escape(head)}.</b> {escape(rest)}"
        if stop and head in ("What you see", "Why", "Try")
        else escape(paragraph)
    )
    parts = text.split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def failures(report: Report) -> str:
    count = len(report.result.failed)
    return f' <span class="fail">{count} failed</span>' if count else ""
