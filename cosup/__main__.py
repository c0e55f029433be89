"""`python -m cosup` is `cosup`."""

import sys

from cosup.cli import main

if __name__ == "__main__":
    sys.exit(main())
