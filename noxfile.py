"""What needs an environment of its own: `nox -l` lists the sessions, `nox` runs the checks and the tests.

torch goes first, by its exact pin: a build of that version that is at hand locally (a CPU-only one) then serves. A
Python that is not installed is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

HOUSE = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]


def install(session: nox.Session, *what: str, constraints: str = "constraints.txt") -> None:
    """Install cosup, with extras, beside the pinned torch."""
    pin = re.search(r"^torch==.*$", (HOUSE / constraints).read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None:
        session.error(f"{constraints} does not pin torch")
    session.install("-c", constraints, pin[0])
    session.install("-c", constraints, *what)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the quick tests on each Python; `nox -s tests -- tests/index` runs some of them."""
    install(session, "-e", ".[dev]")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Run the quick tests with the oldest versions that pyproject.toml allows of what cosup needs (torch apart)."""
    install(session, "-e", ".[dev]", constraints="constraints-oldest.txt")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff and mypy."""
    install(session, "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; a warning is an error."""
    install(session, "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", "site", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Try damaged input on everything that reads; `nox -s fuzz -- indexes --cases 500` tries some of it."""
    install(session, "-e", ".[dev,fuzz]")
    session.run("python", "benchmarks/fuzz.py", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build both distributions, install the wheel alone, and run a demo there."""
    session.install("-c", "constraints.txt", "build", "pytest", "hypothesis")
    install(session, "-e", ".")
    session.run("pytest", "-m", "slow", "tests/packaging", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Compare what constraints.txt pins with the known vulnerabilities."""
    session.install("pip-audit>=2.9")
    session.run("pip-audit", "--no-deps", "--disable-pip", "-r", "constraints.txt", *session.posargs)
