"""For the environment of ``make test-sglang``: elsewhere there is no SGLang, and nothing of this folder runs."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

# verl chooses its platform once, when it is imported.
os.environ["VERL_PLATFORM"] = "cpu"

try:
    version("sglang")
except PackageNotFoundError:
    collect_ignore_glob = ["*"]
