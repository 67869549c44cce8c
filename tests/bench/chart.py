"""The chart of `make bench`: seconds and process memory of a caption."""

from collections.abc import Mapping
from typing import Any

OURS, OTHERS, LINE = "#0f766e", "#cbd5e1", "#94a3b8"
LIMIT_MB = 536.9  # 512 MiB
ROW, BAR, TOP = 30, 22, 34  # px
PANELS = (
    ("seconds", "seconds for a caption of 16 tokens", 200, 270, "{:,.2f}"),
    ("peak_mb", "peak memory of the process, MB", 540, 330, "{:,.0f}"),
)


def svg(captions: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """Return the SVG: a row for each of `names`, in their order."""
    height = TOP + ROW * len(names) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="940" height="{height}" viewBox="0 0 940 {height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for row, name in enumerate(names.values()):
        parts.append(f'<text x="190" y="{TOP + ROW * row + 16}" text-anchor="end">{name}</text>')
    for key, title, left, width, form in PANELS:
        scale = width / max(captions[name][key] for name in names)
        parts.append(f'<text x="{left}" y="18">{title}</text>')
        for row, name in enumerate(names):
            value, y = captions[name][key], TOP + ROW * row
            colour = OURS if name == "ours" else OTHERS
            parts.append(
                f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>'
            )
            parts.append(f'<text x="{left + value * scale + 5:.1f}" y="{y + 16}">{form.format(value)}</text>')
        if key == "peak_mb":
            x = left + LIMIT_MB * scale
            parts.append(
                f'<path d="M{x:.1f} {TOP - 4}V{height - 4}" stroke="{LINE}" stroke-dasharray="4 3"/>'
                f'<text x="{x + 4:.1f}" y="{height - 2}" font-size="10">512 MiB</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"
