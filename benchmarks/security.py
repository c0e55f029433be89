"""What could harm whoever runs cosup or reads its pages: packages with holes, code in data, paths, script, secrets.

    python benchmarks/security.py               all of it
    python benchmarks/security.py packages      some of it

Writes a record of each; ends with 1 where something was found. `packages` needs `pip install pip-audit` and the
network; `script` needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from xml.etree import ElementTree

from packaging.utils import canonicalize_name
from packaging.version import Version
from reliability import RECORDS, Trial, chosen

HOUSE = Path(__file__).parents[1]
NEWEST = "https://pypi.org/pypi/{name}/json"

logger = logging.getLogger("security")


@dataclass
class Found:
    """What came of one check: how many things were looked at, what is wrong, what holds, and what else is kept."""

    times: int
    wrong: list[str]
    holds: str = ""
    details: dict[str, list[str]] = field(default_factory=dict)


# -- packages ----------------------------------------------------------------------------------------------------------


def packages() -> Found:
    """Ask for the known holes of every package of this environment.

    pip-audit asks about the releases that are installed. Where it is not told of one (a mirror may keep what is known
    about the newest release alone), the newest is asked about, which counts where it is the one installed.
    """
    installed = {canonicalize_name(found.name): found.version for found in distributions()}
    installed.pop("cosup", None)
    told = audited(installed)
    missing = sorted(installed.keys() - told.keys())
    with ThreadPoolExecutor(8) as pool:
        for name, (release, holes) in zip(missing, pool.map(newest, missing), strict=True):
            if release and Version(release) == Version(Version(installed[name]).public):
                told[name] = holes
    wrong = [f"{name} {installed[name]}: {hole}" for name in sorted(told) for hole in told[name]]
    unknown = [f"{name} {installed[name]}" for name in missing if name not in told]
    holds = f"none of {len(told)} packages has a known hole" if not wrong else "see what was found"
    if unknown:
        holds += f"; of {len(unknown)} more, named in the record, nothing is told of the release in use"
    return Found(len(told), wrong, holds, {"not_told": unknown})


def audited(installed: dict[str, str]) -> dict[str, list[str]]:
    """Return the holes of each package that pip-audit is told of."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{n}=={Version(v).public}\n" for n, v in installed.items()), encoding="utf-8")
        options = ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off", "-r", str(listed)]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, check=False
        )
    if not done.stdout.startswith("{"):
        raise SystemExit(f"pip-audit gave no report (pip install pip-audit):\n{done.stderr[-1000:]}")
    found = json.loads(done.stdout)["dependencies"]
    return {own["name"]: [hole["id"] for hole in own["vulns"]] for own in found if "vulns" in own}


def newest(name: str) -> tuple[str, list[str]]:
    """Return a package's newest release and its known holes; an empty release where there is no answer."""
    try:
        with urllib.request.urlopen(NEWEST.format(name=name), timeout=30) as response:
            found = json.load(response)
    except (urllib.error.URLError, TimeoutError, ValueError):
        return "", []
    return found["info"]["version"], [hole["id"] for hole in found["vulnerabilities"] if not hole["withdrawn"]]


# -- what tests show ---------------------------------------------------------------------------------------------------


def tested(*words: str) -> Found:
    """Run tests and return how many there were, and which failed; one that is skipped was not tried."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *words]
        done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(done.stdout[-1000:] + done.stderr[-1000:])
        cases = list(ElementTree.parse(report).iter("testcase"))
    wrong = [f"{c.get('name')} failed" for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [f"{c.get('name')} was skipped" for c in cases if c.find("skipped") is not None]
    return Found(len(cases) - len(skipped), wrong + skipped)


@dataclass(frozen=True)
class Check:
    """A check: what is tried, how, and what holds where a run of it does not say so itself."""

    tried: str
    run: Callable[[], Found]
    holds: str = ""


CHECKS = {
    "packages": Check("known holes in the packages of a whole environment (pip-audit)", packages),
    "code": Check(
        "pickle, torch.load, eval, shells, archives and code of models, looked for in every source",
        lambda: tested("tests/security/test_code.py"),
        "no pickle, no shell, no archive is unpacked, torch.load with weights_only alone, no code of a model is run",
    ),
    "paths": Check(
        "names in files and requests that lead out of a folder, or that no file can have",
        lambda: tested("tests/security/test_paths.py"),
        "none leads out of its folder; each is refused in words",
    ),
    "secrets": Check(
        "keys and passwords in the environment, in addresses and in recipes",
        lambda: tested("tests/security/test_secrets.py"),
        "none is in a log, a file, a message or a response",
    ),
    "script": Check(
        "script in every field that the report and the served page show, in Chromium, their own policy switched off",
        lambda: tested("tests/browser/test_injection.py", "-m", "browser"),
        "nothing runs and nothing becomes an element; each is shown as text",
    ),
}


def main() -> None:
    """Run the checks that are asked for and write their records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; all of them if left out")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder for the records")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    wrong = 0
    for name in chosen(parser, asked.checks, CHECKS, "check"):
        began, check = time.monotonic(), CHECKS[name]
        found = check.run()
        seconds = time.monotonic() - began
        holds = found.holds or check.holds
        told = (check.tried, found.times, found.wrong, holds, seconds, found.details)
        Trial("security", f"security-{name}", *told).write(["benchmarks/security.py", name], asked.records)
        logger.info("%s: %d, %d found, %.0f s: %s", name, found.times, len(found.wrong), seconds, holds)
        wrong += len(found.wrong)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
