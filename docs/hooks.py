"""What mkdocs does besides: a page may link to a file of the repository, which then lies in the site under `files/`.

On GitHub such a link (`../recipes/squad-lora.yaml`) leads to the file itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_SUFFIX = {".md": ".txt", ".yaml": ".yaml.txt", ".py": ".py.txt", "": ".txt"}  # shown by a browser, not downloaded


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside of docs/ that pages link to."""
    docs = Path(config.docs_dir)
    for file in list(files.documentation_pages()):
        page = docs / file.src_uri
        for _, link, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            name = _outside(link, page, docs)
            if name is not None and files.get_file_from_path(_place(name)) is None:
                files.append(File.generated(config, _place(name), abs_src_path=str(docs.parent / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Point links that leave docs/ at the copies under `files/`."""
    docs = Path(config.docs_dir)
    path = docs / page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        name = _outside(found[2], path, docs)
        if name is None:
            return found[0]
        return found[1] + os.path.relpath(docs / _place(name), path.parent) + found[3]

    return _LINK.sub(moved, markdown)


def _outside(link: str, page: Path, docs: Path) -> str | None:
    """Return the path in the repository of a file that a link of a page leads to, where that is not in docs/."""
    target = (page.parent / link).resolve()
    root = docs.resolve().parent
    if "://" in link or not target.is_file() or target.is_relative_to(docs.resolve()):
        return None
    return target.relative_to(root).as_posix() if target.is_relative_to(root) else None


def _place(name: str) -> str:
    suffix = Path(name).suffix
    return f"files/{name.removesuffix(suffix)}{_SUFFIX.get(suffix, suffix)}"
