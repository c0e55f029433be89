"""All targets: by group, and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.fuzz.formats import FORMATTED
from tests.fuzz.https import HTTPS
from tests.fuzz.outputs import OUTPUTS
from tests.fuzz.places import INDEXES, MODELS
from tests.fuzz.readers import OWN
from tests.fuzz.running import Target
from tests.fuzz.yamls import YAMLS

GROUPS: Mapping[str, Sequence[Target]] = {
    "data": OWN,
    "formats": FORMATTED,
    "settings": YAMLS,
    "outputs": OUTPUTS,
    "indexes": INDEXES,
    "models": MODELS,
    "http": HTTPS,
}
TARGETS: dict[str, Target] = {target.name: target for group in GROUPS.values() for target in group}
assert len(TARGETS) == sum(map(len, GROUPS.values()))
