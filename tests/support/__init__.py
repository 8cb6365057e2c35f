"""What the tests share. `listener` is the module under test, loaded once.

It is the one beside the tests, or the one that the environment variable LISTENER names.
"""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent  # the folder tests
LISTENER = os.environ.get("LISTENER") or str(HERE.parent / "listener.py")

_spec = importlib.util.spec_from_file_location("listener", LISTENER)
listener = sys.modules["listener"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(listener)
