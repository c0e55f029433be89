"""One process of several that build an index together: `torchrun -m tests.index.sharing FOLDER RUN PAUSE`.

Each notes what it embeds in `FOLDER/log-RUN-RANK`; the first prints the progress it is told.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cosup.index.build import write_index
from cosup.processes import join, leave, rank
from tests.index import building


def main() -> None:
    """Take part in a build."""
    folder, run, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    join()
    told: list[tuple[int, int]] = []
    embedder = building.SlowEmbedder(folder / f"log-{run}-{rank()}", pause)
    place = folder / "index"
    write_index(embedder, building.PASSAGES, place, lambda *p: told.append(p), options=building.OPTIONS)
    if told:
        (folder / f"told-{run}-{rank()}").write_text(json.dumps(told))
    leave(0)


if __name__ == "__main__":
    main()
