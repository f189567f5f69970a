"""A real SLURM with two nodes on one machine, each node in its own network, process, host name and mount namespaces.

The nodes have different addresses and names, and do not share ``/tmp`` or ``/dev/shm``; what they share is the rest of
the file system. Needs root, and Debian's packages.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
"""Debian's packages that make up the cluster."""

_COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare", "setpriv")
_BRIDGE = "ma-slurm"
_NETWORK = "10.77.0"
_CONTROLLER_PORT, _NODE_PORT = 7817, 7818
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.3

# What a node's memory file systems may take: Ray's object store and vLLM's weights are on the first.
_NODE_SCRIPT = """
set -e
hostname "$1"
mount --make-rprivate /
mount -t tmpfs -o size=4g tmpfs /dev/shm
mount -t tmpfs -o size=2g tmpfs /tmp
mount --bind "$2/hosts" /etc/hosts
slurmd -D -N "$1" -f "$2/slurm.conf" -L "$2/slurmd.$1.log" &
wait
"""

_SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}({network}.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}/socket,cred_expire={expire}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=20
MpiDefault=none
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=15
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""

# A requeued job waits until its credential has expired; SLURM's default is two minutes.
_CREDENTIAL_SECONDS = 10


class SlurmError(RuntimeError):
    """A command of SLURM, or of what it is made of, failed; the message has its output."""


class SlurmCluster:
    """Two nodes, ``n1`` and ``n2``, of two CPUs each, and the partitions ``low`` and ``high``, which preempts it.

    Args:
        folder: for configuration, state and logs; seen by the nodes, so not below ``/tmp``. Made anew.
    """

    nodes = ("n1", "n2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._munge = Path("/run") / f"{_BRIDGE}-munge"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start everything and wait until both nodes are idle.

        Raises:
            SlurmError: a part did not start, or the nodes would not see the folder.
        """
        if self.folder.resolve().is_relative_to("/tmp"):
            raise SlurmError(f"{self.folder} is below /tmp, of which each node has its own; use a checkout elsewhere")
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "state").mkdir(parents=True)
        self._write_configuration()
        self._make_network()
        self._start_munge()
        self._daemon("slurmctld", ["slurmctld", "-D", "-c", "-f", str(self._conf)])
        for node in self.nodes:
            self.start_node(node)
        self.wait_until(lambda: self._states() == ["idle"] * len(self.nodes), _START_SECONDS, "both nodes to be idle")

    def stop(self) -> None:
        """End everything that was started, whatever state it is in."""
        for name in reversed(list(self._daemons)):
            process = self._daemons.pop(name)
            if name in self.nodes:
                process.kill()  # its namespaces go with it, and all that runs there
            else:
                process.terminate()
            process.wait(timeout=_STOP_SECONDS)
        self._remove_network()
        shutil.rmtree(self._munge, ignore_errors=True)

    def start_node(self, node: str) -> None:
        """Start a node: the first time, or after :meth:`kill_node`."""
        network = ["nsenter", f"--net=/run/netns/{_namespace(node)}"]
        own = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._daemon(node, [*network, *own, "bash", "-c", _NODE_SCRIPT, "node", node, str(self.folder)])

    def kill_node(self, node: str) -> None:
        """Take a node down at once, as by its power: all its processes are killed."""
        process = self._daemons.pop(node)
        process.kill()
        process.wait(timeout=_STOP_SECONDS)

    def clear(self) -> None:
        """Cancel all jobs, start the nodes that were killed, and wait until both are idle.

        Raises:
            SlurmError: a job or a node does not get there.
        """
        for job in self.run("squeue", "--noheader", "--format=%i").split():
            self.run("scancel", job)
        for node in self.nodes:
            if node not in self._daemons:
                self.start_node(node)
        self.wait_until(lambda: not self.run("squeue", "--noheader"), _START_SECONDS, "no job to be left")
        self.wait_until(lambda: self._states() == ["idle"] * len(self.nodes), _START_SECONDS, "both nodes to be idle")

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """What one of SLURM's commands prints.

        Raises:
            SlurmError: it failed.
        """
        variables = {**os.environ, "SLURM_CONF": str(self._conf), **(environment or {})}
        result = subprocess.run(command, capture_output=True, text=True, env=variables)
        if result.returncode != 0:
            raise SlurmError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
        return result.stdout.strip()

    def submit(self, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
        """Submit a job by sbatch; its id."""
        return int(self.run("sbatch", "--parsable", *arguments, environment=environment))

    def state(self, job: int) -> str:
        """A job's state, as squeue calls it; also when it has ended."""
        return self.field(job, "JobState")

    def field(self, job: int, name: str) -> str:
        """A field of a job, as ``scontrol show job`` prints it; empty if there is none."""
        fields = self.run("scontrol", "show", "job", str(job), "--oneliner").split()
        return next((field.partition("=")[2] for field in fields if field.startswith(f"{name}=")), "")

    def wait_until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll until something holds.

        Raises:
            SlurmError: it did not within the given seconds.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise SlurmError(f"waited {seconds:.0f} s for {what}\n{self._tails()}")
            time.sleep(_POLL_SECONDS)

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def _states(self) -> list[str]:
        result = self._try(["sinfo", "--noheader", "--Node", "--partition=low", "--format=%T"])
        return result.stdout.split()

    def _try(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "SLURM_CONF": str(self._conf)}, check=False
        )

    def _write_configuration(self) -> None:
        host = os.uname().nodename
        addresses = {node: f"{_NETWORK}.{10 + index}" for index, node in enumerate(self.nodes)}
        nodes = "\n".join(
            f"NodeName={node} NodeAddr={address} CPUs=2 RealMemory=8000 Gres=gpu:1 State=UNKNOWN"
            for node, address in addresses.items()
        )
        self._conf.write_text(
            _SLURM_CONF.format(
                host=host,
                network=_NETWORK,
                folder=self.folder,
                munge=self._munge,
                expire=_CREDENTIAL_SECONDS,
                nodes=nodes,
                controller_port=_CONTROLLER_PORT,
                node_port=_NODE_PORT,
            )
        )
        # A GPU for the scheduler's sake.
        (self.folder / "gres.conf").write_text("AutoDetect=off\nName=gpu File=/dev/null\n")
        hosts = {"localhost": "127.0.0.1", host: f"{_NETWORK}.1", **addresses}
        (self.folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))

    def _make_network(self) -> None:
        self._remove_network()
        _command("ip", "link", "add", _BRIDGE, "type", "bridge")
        _command("ip", "address", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
        _command("ip", "link", "set", _BRIDGE, "up")
        for index, node in enumerate(self.nodes):
            space, link = _namespace(node), f"ma-{node}"
            _command("ip", "netns", "add", space)
            _command("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _command("ip", "link", "set", link, "master", _BRIDGE, "up")
            inside = ("nsenter", f"--net=/run/netns/{space}", "ip")
            _command(*inside, "link", "set", "lo", "up")
            _command(*inside, "address", "add", f"{_NETWORK}.{10 + index}/24", "dev", "eth0")
            _command(*inside, "link", "set", "eth0", "up")

    def _remove_network(self) -> None:
        for node in self.nodes:
            subprocess.run(["ip", "netns", "delete", _namespace(node)], capture_output=True)
            subprocess.run(["ip", "link", "delete", f"ma-{node}"], capture_output=True)
        subprocess.run(["ip", "link", "delete", _BRIDGE], capture_output=True)

    def _start_munge(self) -> None:
        shutil.rmtree(self._munge, ignore_errors=True)
        self._munge.mkdir(mode=0o755)
        key = self._munge / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for path in (self._munge, key):
            shutil.chown(path, "munge", "munge")
        files = [f"--{name}-file={self._munge / name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", ["munged", "--foreground", f"--socket={self._munge / 'socket'}", *files], user="munge")
        self.wait_until((self._munge / "socket").exists, _START_SECONDS, "munged's socket")

    def _daemon(self, name: str, command: Sequence[str], user: str | None = None) -> None:
        # Ends with this process, even when it is killed.
        bound = ["setpriv", "--pdeathsig=KILL", *command]
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                bound,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                user=user,
                start_new_session=True,
            )

    def _tails(self) -> str:
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]) for log in logs)


def install() -> str | None:
    """Install the packages if they are missing; why the cluster cannot be had, or None if it can."""
    if os.geteuid() != 0:
        return "network namespaces and SLURM's daemons need root"
    if any(shutil.which(command) is None for command in _COMMANDS):
        if shutil.which("apt-get") is None:
            return f"SLURM is not installed, and there is no apt-get; it takes {' '.join(PACKAGES)}"
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            result = subprocess.run(["apt-get", *command], capture_output=True, text=True, env=environment)
            if result.returncode != 0:
                return f"apt-get {' '.join(command)}: {result.stderr}"
    allowed = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return None if allowed.returncode == 0 else "this machine does not allow namespaces"


def processes_with(variable: str, value: str) -> list[int]:
    """Processes of this machine, nodes' included, whose environment has a variable with this value."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if environment_of(int(entry.name)).get(variable) == value:
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def environment_of(process: int) -> dict[str, str]:
    """The environment that a process was started with."""
    entries = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _namespace(node: str) -> str:
    return f"ma-slurm-{node}"


def _command(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise SlurmError(f"{' '.join(command)}: {result.stderr}")
