"""Starting the processes that train one model together, and the loop in which all but the first of them wait for runs.

Only the first process runs the user's program. The others are started by `amodal.fit` (one machine), or by `torchrun`
(several machines); they receive each training run, take part in it, and write and print nothing.
"""

from __future__ import annotations

import atexit
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

import torch
import torch.distributed as dist

from amodal.errors import AmodalError, ConfigurationError, RunError
from amodal.processes import Processes
from amodal.settings import TrainingSettings

__all__ = ["follow", "is_follower", "processes_for"]

_STARTED = "AMODAL_FOLLOWER"  # set in processes that `processes_for` starts


def is_follower() -> bool:
    """Whether this process was started (here, or by torchrun) to take part in another's training runs."""
    if dist.is_initialized():
        return False  # it takes part already
    started = _STARTED in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    return started and _number("WORLD_SIZE", 1) > 1 and _number("RANK", 0) > 0


def _number(name: str, default: int) -> int:
    given = os.environ.get(name, "")
    return int(given) if given.isdecimal() else default


@contextmanager
def processes_for(
    settings: TrainingSettings, device: torch.device, work: Callable[[Processes], Any]
) -> Iterator[Processes]:
    """The processes that a training asks for, with the others at work on it.

    Args:
        settings: Its settings.
        device: Device of the first process.
        work: What the other processes call; it travels by pickle, with classes of the user's script by value.

    Raises:
        ConfigurationError: If torchrun started another number of processes.
        RunError: If another process ended.
    """
    size = settings.devices * settings.nodes
    given = _number("WORLD_SIZE", 1) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if given > 1 and size != given:
        raise ConfigurationError(
            "torchrun started another number of processes than the training asks for",
            expected=f"devices × nodes = {given}",
            got=f"{settings.devices} × {settings.nodes}",
        )
    if size == 1:
        yield Processes(device)
        return
    if settings.nodes > 1 and given == 1:
        raise ConfigurationError(
            "several nodes need torchrun on each of them",
            hint=f"torchrun --nnodes {settings.nodes} --nproc-per-node {settings.devices} … -m amodal fit …",
        )
    team = _Team.of(size, device, given > 1)
    try:
        team.send(work)
        yield Processes(team.device, 0, size)
    except AmodalError:
        raise  # every process has come to it
    except Exception as error:
        team.end()
        raise RunError(f"a process of the training has ended: {error}{team.last_words()}") from error
    except BaseException:
        team.end()
        raise


def follow() -> None:
    """Takes part in the first process's training runs until it ends; then this process ends too."""
    rank = _number("RANK", 0)
    device = torch.device("cpu")
    if torch.cuda.is_available() and os.environ.get(_STARTED, "cuda") == "cuda":
        device = torch.device("cuda", _number("LOCAL_RANK", rank))
        torch.cuda.set_device(device)
    _join(device)
    processes = Processes(device, rank, dist.get_world_size())
    while (work := _receive(device)) is not None:
        with suppress(AmodalError):  # the first process raises the same
            work(processes)
    dist.barrier()  # nobody leaves while another still sends
    dist.destroy_process_group()
    sys.exit(0)


def _join(device: torch.device) -> None:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def _send(content: bytes, device: torch.device) -> None:
    dist.broadcast(torch.tensor(len(content), device=device), 0)
    if content:
        dist.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device), 0)


def _receive(device: torch.device) -> Callable[[Processes], Any] | None:
    size = torch.tensor(0, device=device)
    dist.broadcast(size, 0)
    if not int(size):
        return None
    content = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(content, 0)
    return pickle.loads(content.cpu().numpy().tobytes())  # from the process that started this one


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "training in several processes needs cloudpickle", hint="pip install 'amodal[distributed]'"
        ) from error
    return cloudpickle


@dataclass
class _Team:
    """The processes that wait for this one's training runs."""

    size: int
    device: torch.device
    members: list[subprocess.Popen] = field(default_factory=list)
    logs: list[IO[bytes]] = field(default_factory=list)

    current: ClassVar[_Team | None] = None  # stays from one training to the next

    @classmethod
    def of(cls, size: int, device: torch.device, started: bool) -> _Team:
        """The team of this size, started now or before."""
        if device.type == "cuda":
            device = torch.device("cuda", 0)
        elif device.type != "cpu":
            raise ConfigurationError("several processes train on CPUs or CUDA devices", got=str(device))
        team = cls.current
        if team is not None and (team.size, team.device) == (size, device):
            return team
        if team is not None:
            team.end()
        _cloudpickle()  # before anything is started
        team = cls.current = cls(size, device)
        if not started:
            team._start()
        _join(device)
        atexit.register(team.end)
        return team

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(self.size)}
        for rank in range(1, self.size):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), _STARTED: self.device.type}
            path = os.pathsep.join(part for part in sys.path if part)
            self.logs.append(tempfile.TemporaryFile())  # noqa: SIM115
            self.members.append(
                subprocess.Popen(
                    [sys.executable, "-c", "from amodal.training.processes import follow; follow()"],
                    env={**os.environ, **common, **ranks, "PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=self.logs[-1],
                    stderr=self.logs[-1],
                )
            )
        os.environ.update(common, RANK="0", LOCAL_RANK="0")

    def send(self, work: Callable[[Processes], Any]) -> None:
        """Gives all members something to do."""
        _send(_cloudpickle().dumps(work), self.device)

    def last_words(self) -> str:
        """What members that ended with an error wrote last."""
        texts = []
        for member, log in zip(self.members, self.logs):
            if member.poll():
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                texts.append(f"\n{lines[-1]}" if lines else f"\nexit status {member.returncode}")
        return "".join(texts)

    def end(self) -> None:
        """Lets members end, and ends those that do not."""
        if type(self).current is not self:
            return
        type(self).current = None
        atexit.unregister(self.end)
        alive = all(member.poll() is None for member in self.members)
        try:
            if alive and sys.exc_info()[0] is None:
                _send(b"", self.device)
                dist.barrier()
        except RuntimeError:
            pass  # a member has gone
        for member in self.members:
            try:
                member.wait(10 if alive and sys.exc_info()[0] is None else 0.2)
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
