"""A second machine: a network namespace with a Ray node in it. It shares this one's disk, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from actors.framework.runtime import Runtime
from actors.plant import make_scheduler
from actors.scheduler import Scheduler
from tests.actors.server import free_port, kill_with_descendants, wait_for

HERE, THERE = "10.231.77.1", "10.231.77.2"
NAMESPACE = "genserve-other"
GPUS = 2
"""That Ray believes each machine to have."""
ENVIRON = {"RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def can_be_made() -> bool:
    """Takes root, and Debian's iproute2."""
    try:
        return _ip("netns", "list", is_needed=False) and os.geteuid() == 0
    except FileNotFoundError:
        return False


class TwoMachines:
    """This machine, where the cluster's head is, and the other one, which may die and come back."""

    def __init__(self, folder: Path) -> None:
        self.address = f"{HERE}:{free_port()}"
        self._folder = folder
        self._head: subprocess.Popen[bytes] | None = None
        self._other: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        self._head = self._ray("head", "--head", f"--port={port}", f"--node-ip-address={HERE}")
        wait_for(lambda: self._says("head", "Ray runtime started"), "head of the cluster")
        self.boot()
        os.environ.update(ENVIRON)
        ray.init(address=self.address, log_to_driver=False)
        wait_for(lambda: ray.cluster_resources().get("GPU") == 2 * GPUS, "second machine")

    def boot(self) -> None:
        """Returns when the other machine's node has started."""
        how = (f"--address={self.address}", f"--node-ip-address={THERE}")
        self._other = self._ray("other", *how, inside=("ip", "netns", "exec", NAMESPACE))
        wait_for(lambda: self._says("other", "Ray runtime started"), "node on the second machine")

    def crash(self) -> None:
        """All the other machine's processes, at once."""
        for pid in subprocess.run(
            ("ip", "netns", "pids", NAMESPACE), stdout=subprocess.PIPE, check=True
        ).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        assert self._other is not None
        self._other.wait()

    def stop(self) -> None:
        ray.shutdown()
        for node in (self._other, self._head):
            if node is not None:
                kill_with_descendants(node)

    def _ray(self, name: str, *how: str, inside: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        limits = ("--num-cpus=1", f"--num-gpus={GPUS}", "--object-store-memory=100000000", "--disable-usage-stats")
        command = (*inside, str(Path(sys.executable).with_name("ray")), "start", "--block", *how, *limits)
        with (self._folder / name).open("wb") as output:
            return subprocess.Popen(command, env={**os.environ, **ENVIRON}, stdout=output, stderr=output)

    def _says(self, name: str, words: str) -> bool:
        return words in (self._folder / name).read_text()


@contextmanager
def two_machines(folder: Path) -> Iterator[TwoMachines]:
    """Connected by a cable."""
    machines = TwoMachines(folder)
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "add", "genserve-here", "type", "veth", "peer", "name", "there", "netns", NAMESPACE)
        _ip("addr", "add", f"{HERE}/24", "dev", "genserve-here")
        _ip("link", "set", "genserve-here", "up")
        _ip("-n", NAMESPACE, "addr", "add", f"{THERE}/24", "dev", "there")
        for device in ("lo", "there"):
            _ip("-n", NAMESPACE, "link", "set", device, "up")
        machines.start()
        yield machines
    finally:
        machines.stop()
        _ip("netns", "delete", NAMESPACE)


def make_wandering_scheduler(runtime: Runtime, *arguments: Any) -> Scheduler:
    """In whatever process Ray starts it."""
    from genserve.planners import registry
    from tests.wander import Wander

    registry._OURS[Wander.title] = Wander
    return make_scheduler(runtime, *arguments)


def _ip(*words: str, is_needed: bool = True) -> bool:
    return subprocess.run(("ip", *words), check=is_needed, capture_output=True).returncode == 0
