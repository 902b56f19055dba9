"""Hook of the documentation's build: links that lead out of `docs/` go to the repository.

In the repository such a link (`../helm/kpod-metrics/README.md`) is right as it is; the site has no such page. One that
leads to nothing fails the build, as any other broken link.
"""

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/pjs7678/kpod-metrics/blob/main"

# A warning of this logger is one of the build.
log = logging.getLogger("properdocs.hooks.docs")
_LINK = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite a page before it is rendered."""

    def rewrite(link: "re.Match[str]") -> str:
        if not (ROOT / link[1]).exists():
            log.warning("%s links to ../%s, which is not there", page.file.src_uri, link[1])
        return f"]({REPOSITORY}/{link[1]}{link[2] or ''})"

    return _LINK.sub(rewrite, markdown)
