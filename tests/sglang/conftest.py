"""For the environment of ``make test-sglang``: elsewhere there is no SGLang, and nothing of this folder runs."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# verl chooses its platform once, when it is imported.
os.environ["VERL_PLATFORM"] = "cpu"

# For the runs of tests/verl_ext/test_end_to_end.py. (`tests` is a package of verl's wheel.)
sys.path.append(str(Path(__file__).parent.parent / "verl_ext"))

try:
    version("sglang")
except PackageNotFoundError:
    collect_ignore_glob = ["*"]
