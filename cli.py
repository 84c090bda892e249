"""The `glot` command from a checkout: `python cli.py ...`, `accelerate launch cli.py ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "pipeline"))

from glot.commands.app import main

if __name__ == "__main__":
    main()
