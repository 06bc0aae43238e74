"""`python -m tasks.drills.esp CONFIGURATION.json`: run the simulated ESP."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.drills.esp.server import Configuration, serve

if __name__ == "__main__":
    serve(Configuration.read(Path(sys.argv[1])))
