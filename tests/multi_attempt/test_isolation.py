"""The task knows nothing of the trainer: it imports where no engine is installed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pkgutil, sys
from importlib import import_module

import multi_attempt

# The evaluation plays episodes on an engine, so it alone may import one.
skipped = "multi_attempt.evaluation"
modules = [module.name for module in pkgutil.walk_packages(multi_attempt.__path__, "multi_attempt.")]
modules = [name for name in modules if name != skipped and not name.startswith(skipped + ".")]
for name in modules:
    import_module(name)
print("modules:", *sorted(modules))
print("engines:", *sorted({"verl", "ray", "vllm"} & set(sys.modules)))
"""


def test_no_module_of_the_task_imports_the_trainer_or_an_engine() -> None:
    finished = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    modules, engines = finished.stdout.splitlines()[-2:]
    assert {"multi_attempt.episode", "multi_attempt.grading", "multi_attempt.toy"} <= set(modules.split())
    assert engines == "engines:"
