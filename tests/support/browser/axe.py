"""What axe, which tests pages for barriers, finds on one."""

from axe_playwright_python.base import AxeResults
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def check_with_axe(page: Page) -> None:
    """Check a page in light mode with everything unfolded, and the colours of dark mode."""
    page.eval_on_selector_all("details:not(.delete)", "all => all.forEach((each) => { each.open = true; })")
    page.evaluate(Axe().axe_script)
    for scheme, rules in (
        ("light", {"type": "tag", "values": WCAG}),
        ("dark", {"type": "rule", "values": ["color-contrast"]}),
    ):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        options = {"runOnly": rules, "resultTypes": ["violations"]}
        found = AxeResults(page.evaluate("options => axe.run(options)", options))
        assert not found.violations_count, f"{scheme}: {found.generate_report()}"
