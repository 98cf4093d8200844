#!/usr/bin/env python3
"""A recording of asciinema as an animated SVG: text, and style sheets that browsers animate, for a README.

    tests/life/picture.py FILE.cast FILE.svg

Recordings of `recording.py` are enough: lines that are never rewritten, bold, dim and green. They scroll and start again.
"""

import json
import pathlib
import re
import sys
from html import escape

LINE, CHARACTER, MARGIN = 17, 7.83, 14  # pixels; a character of the 13 pixels that the style asks for
STYLES = {"1;32": "p", "2": "c", "0": None}
CSS = """\
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d5dae3;white-space:pre}
.p{fill:#7fd88f;font-weight:bold}.c{fill:#8b94a7}
@media (prefers-reduced-motion:reduce){*{animation:none!important}}
"""


def lines_of(events, columns):
    """Lines, each with the second at which it appears. Longer ones go on in the next line, as in a terminal."""
    lines, rest, begin = [], "", 0.0
    for second, _, text in events:
        for piece in text.replace("\r\n", "\n").splitlines(keepends=True):
            begin = begin if rest else second
            rest += piece
            if rest.endswith("\n"):
                lines += [(begin, part) for part in wrapped(rest[:-1], columns)]
                rest = ""
    return lines


def wrapped(line, columns):
    """A line's parts, each as pairs of a style and a text that fit into `columns` together."""
    style, width, part, parts = None, 0, [], []
    for found in re.finditer(r"\x1b\[([0-9;]*)m|([^\x1b]+)", line):
        if found[2] is None:
            style = STYLES[found[1]]
            continue
        text = found[2]
        while text:
            piece, text = text[: columns - width], text[columns - width :]
            part.append((style, piece))
            width += len(piece)
            if text:
                parts.append(part)
                part, width = [], 0
    return [*parts, part]


def span(style, text):
    return escape(text, quote=False) if style is None else f'<tspan class="{style}">{escape(text, quote=False)}</tspan>'


def svg(header, events):
    columns, rows = header["width"], header["height"]
    lines = lines_of(events, columns)
    total = events[-1][0]
    width, height = round(columns * CHARACTER + 2 * MARGIN), rows * LINE + 2 * MARGIN
    share = lambda second: f"{100 * second / total:.2f}%"  # noqa: E731 (of the animation)
    rules, body = [], []
    moments = sorted({second for second, _ in lines})
    for number, moment in enumerate(moments):
        # What appears together is one group; all of them go when it starts again.
        rules.append(f"@keyframes a{number}{{0%{{opacity:0}}{share(moment)}{{opacity:1}}100%{{opacity:1}}}}")
        rules.append(f".a{number}{{animation:a{number} {total}s step-end infinite}}")
        texts = [
            f'<text x="{MARGIN}" y="{MARGIN + LINE * row + 12}">{"".join(span(*piece) for piece in parts)}</text>'
            for row, (second, parts) in enumerate(lines)
            if second == moment and parts
        ]
        body.append(f'<g class="a{number}">{"".join(texts)}</g>')
    frames = ["0%{transform:translateY(0)}"]
    for moment in moments:
        shown = sum(second <= moment for second, _ in lines)
        up = max(0, shown - rows) * LINE
        frames.append(f"{share(moment)}{{transform:translateY(-{up}px)}}")
    end = max(0, len(lines) - rows) * LINE
    frames.append(f"100%{{transform:translateY(-{end}px)}}")
    rules.append(f"@keyframes s{{{''.join(frames)}}}")
    rules.append(f".s{{transform:translateY(-{end}px);animation:s {total}s step-end infinite}}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{escape(header['title'])}</title><style>{CSS}{''.join(rules)}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#171b23"/>'
        f'<svg x="0" y="{MARGIN // 2}" width="{width}" height="{height - MARGIN}"><g class="s">{"".join(body)}</g></svg></svg>\n'
    )


def main(source, target):
    header, *events = [json.loads(line) for line in source.read_text().splitlines()]
    if header["version"] != 2:
        sys.exit(f"`{source}` is no recording of version 2")
    target.write_text(svg(header, events))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
