"""A Ray cluster of network namespaces on this machine: own addresses, own mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PORT = 6379
_QUICKLY = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    "RAY_enable_autoscaler_v2": "0",
}


def why_not() -> str | None:
    """Why there can be no namespaces here; None: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        _ip("netns", "add", f"aq{os.getpid()}t")
        _ip("netns", "del", f"aq{os.getpid()}t")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not permitted here: {error}"
    return None


class Cluster:
    """A head and nodes, each in a namespace that a switch connects.

    Args:
        hidden: Folders that nodes other than the head do not have.
        folder: Where logs go.
    """

    def __init__(self, hidden: Sequence[Path], folder: Path) -> None:
        self._hidden = tuple(hidden)
        self._folder = folder
        self._prefix = f"aq{os.getpid()}"
        self._scratch = Path(tempfile.mkdtemp(prefix="aq", dir="/tmp"))  # sockets' names are short
        self._settings = {**_QUICKLY, "RAY_TMPDIR": str(self._scratch)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._switch = f"{self._prefix}sw"
        self._namespaces: list[str] = []
        self._add_namespace(self._switch)
        _ip("-n", self._switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge0", "up")

    @property
    def address(self) -> str:
        """Of the head."""
        return f"{self.host('head')}:{PORT}"

    def host(self, name: str) -> str:
        """Address of a node."""
        return f"10.77.0.{1 if name == 'head' else 1 + int(name.removeprefix('node'))}"

    def start(self, name: str, cpus: int = 1, resources: str = "{}") -> None:
        """Start the head or a node (`node1`), in its namespace; it may have been there before."""
        if self._namespace(name) not in self._namespaces:
            self._connect(name)
        _ip("-n", self._switch, "link", "set", name, "up")
        where = ["--head", f"--port={PORT}"] if name == "head" else [f"--address={self.address}"]
        ray = [str(Path(sys.executable).with_name("ray")), "start", *where, "--block"]
        ray += [f"--node-ip-address={self.host(name)}", f"--num-cpus={cpus}"]
        ray += ["--object-store-memory=100000000", f"--resources={resources}"]
        ray += ["--include-log-monitor=false"]
        ray += ["--include-dashboard=false", "--no-monitor"] if name == "head" else []
        folders = [] if name == "head" else [Path("/tmp"), *self._hidden]
        mounts = f"hostname {name} && "
        mounts += "".join(f"mount -t tmpfs tmpfs {folder} && " for folder in folders)
        mounts += f"mkdir -p {self._scratch} && "
        unshared = ["unshare", "-m", "-u", "sh", "-c", f'{mounts}cd / && exec "$@"']
        log = (self._folder / f"{name}.log").open("ab")
        self._running[name] = subprocess.Popen(
            [*self._within(name), *unshared, "sh", *ray],
            env={**_without_paths(), **self._settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill every process of a node at once."""
        inside = _output("ip", "netns", "pids", self._namespace(name)).split()
        for process in inside:
            with suppress(ProcessLookupError):
                os.kill(int(process), 9)
        self._running.pop(name).wait()

    def pull_cable(self, name: str) -> None:
        """Cut a node off from the others, until it is started again."""
        _ip("-n", self._switch, "link", "set", name, "down")

    def command(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Run Python on the head."""
        root = str(Path(__file__).parents[1])
        return subprocess.Popen(
            [*self._within("head"), sys.executable, *arguments],
            env={**os.environ, **self._settings, "PYTHONPATH": root, **(environment or {})},
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lacks(self, name: str, path: Path) -> bool:
        """Whether a node does not have a file that this machine has."""
        process = _output("ip", "netns", "pids", self._namespace(name)).split()[0]
        seen = ["nsenter", "-m", "-t", process, "test", "-e", str(path)]
        return path.exists() and subprocess.run(seen, check=False).returncode == 1

    def wait_for_nodes(self, count: int) -> None:
        """Wait until so many nodes are there."""
        script = (
            "import ray, sys, time\n"
            f"ray.init(address={self.address!r}, log_to_driver=False, configure_logging=False)\n"
            "end = time.monotonic() + 300\n"
            f"while sum(node['Alive'] for node in ray.nodes()) < {count}:\n"
            "    assert time.monotonic() < end\n"
            "    time.sleep(0.2)\n"
        )
        deadline = time.monotonic() + 300
        while True:
            process = self.command("-c", script)
            _, errors = process.communicate(timeout=600)
            if process.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise AssertionError(errors)

    def stop(self) -> None:
        """End every process, and take the namespaces away."""
        for name in list(self._running):
            self.kill(name)
        for name in self._namespaces:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _within(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(name)]

    def _add_namespace(self, name: str) -> None:
        _ip("netns", "add", name)
        self._namespaces.append(name)

    def _connect(self, name: str) -> None:
        """Give a node a namespace with a cable to the switch."""
        own = self._namespace(name)
        self._add_namespace(own)
        _ip(
            "-n",
            own,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            self._switch,
        )
        _ip("-n", self._switch, "link", "set", name, "master", "bridge0")
        _ip("-n", own, "addr", "add", f"{self.host(name)}/24", "dev", "eth0")
        _ip("-n", own, "link", "set", "eth0", "up")
        _ip("-n", own, "link", "set", "lo", "up")


def _without_paths() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
