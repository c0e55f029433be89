"""All targets by name."""

from __future__ import annotations

from tests.fuzz.https import HTTPS
from tests.fuzz.outputs import OUTPUTS
from tests.fuzz.places import PLACES
from tests.fuzz.readers import READERS
from tests.fuzz.running import Target
from tests.fuzz.yamls import YAMLS

ALL = (*READERS, *YAMLS, *OUTPUTS, *PLACES, *HTTPS)
TARGETS: dict[str, Target] = {target.name: target for target in ALL}
assert len(TARGETS) == len(ALL)
