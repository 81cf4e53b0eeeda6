"""What the site changes of the pages."""

import re


def on_page_markdown(markdown: str, **_) -> str:
    """Leaves links to files beside docs/, which the site does not hold, as their words."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
