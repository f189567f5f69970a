"""The first lines that run in a bubblewrap sandbox: they bound their own process for good, and then become the program.

Arguments: the user to become (0 to stay who one is), then the limits: seconds of a processor's time, bytes of memory,
processes and threads, bytes of a file, open files. Hard limits, which nobody without privileges raises again.
"""

import os
import resource
import sys

user, *bounds = map(int, sys.argv[1:])
names = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_NOFILE")
for name, bound in zip(names, bounds):  # noqa: B905 - Python 3.9's zip is as strict as its arguments
    resource.setrlimit(getattr(resource, name), (bound, bound))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
with open("/program.py", encoding="utf-8") as file:
    program = file.read()
sys.argv = ["program.py"]
del os, resource, user, bounds, names, name, bound, file
exec(compile(program, "program.py", "exec"))
