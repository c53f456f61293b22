"""Where do the six emotion circuits lie?

Walks from a model and prompts to judged circuits and prints them beside random circuits and the linear directions. Same options
as ``circuits discover``; everything is left in the run directory.
"""

from __future__ import annotations

import sys

from circuits.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "discover")
    main()
