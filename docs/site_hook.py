"""For `make site`: links that lead out of docs/, and to the Markdown of the results beside their page, become words."""

import re
from typing import Any

OUTWARD = re.compile(r"\[([^\]]+)\]\((?:\.\./[^)]+|results/README\.md)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page without them; on GitHub they stay."""
    return OUTWARD.sub(r"\1", markdown)
