# SPDX-License-Identifier: Apache-2.0
"""``crispstream`` on the PATH and ``python -m crispstream``: Ctrl-C is heard while the command line is still loaded."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it. Always raises SystemExit."""
    try:
        from crispstream.cli import main as run

        run()
    except KeyboardInterrupt:
        print("crispstream: error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
