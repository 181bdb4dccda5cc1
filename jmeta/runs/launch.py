"""Start several processes of a command on this machine, joined into one job, and outlive them.

    jmeta launch --processes 4 --devices 2 train glyphs_maml --mesh tasks=8

Process 0 prints as if it were alone; lines of the others begin with their number, as in `[2] `. When one process is
lost, the others are stopped, since they would wait for it. A scheduler that restarts jobs needs only the exit status:
after 70 or 75 the same command resumes from the last checkpoint.
"""

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, TextIO

__all__ = [
    "EXIT_MISTAKE",
    "EXIT_USAGE",
    "EXIT_LOST",
    "EXIT_PREEMPTED",
    "SECONDS_TO_END",
    "SECONDS_TO_SETTLE",
    "SECONDS_HELD",
    "SECONDS_BETWEEN_LOOKS",
    "PR_SET_PDEATHSIG",
    "Child",
    "Job",
    "launch",
    "free_port",
    "environment_of",
    "main",
]

EXIT_MISTAKE = 1
"""A user's mistake, or an exception: the same command would end in the same way."""
EXIT_USAGE = 2
"""A command line that was not understood: again the same command would end in the same way."""
EXIT_LOST = 70
"""A process was lost: the same command resumes from the last checkpoint."""
EXIT_PREEMPTED = 75
"""The job was asked to stop, and has saved: the same command resumes from there."""

SECONDS_TO_END = 5.0
"""Seconds between SIGTERM and SIGKILL for the rest of a job that lost a process: it has nothing that it could save."""
SECONDS_TO_SETTLE = 3.0
"""How long to wait for further failures, when the first one seen may be the victim of another."""
SECONDS_HELD = 5.0
"""How long lines of processes other than 0 wait: a line that all of them print is shown once, preferably by process 0.
Lines of a process that has ended by then wait for the end of the job."""
SECONDS_BETWEEN_LOOKS = 0.02

PR_SET_PDEATHSIG = 1  # an option of Linux's prctl


@dataclasses.dataclass
class Child:
    """A process of the job and the output read from it: errors from process 0, all output from the others."""

    rank: int
    process: subprocess.Popen[bytes]
    pipe: IO[bytes]
    rest: bytes = b""
    held: collections.deque[tuple[float, bytes]] = dataclasses.field(default_factory=collections.deque)

    @property
    def status(self) -> int | None:
        """The status as in `Popen`: None while it runs, minus the number of the signal that killed it."""
        return self.process.poll()


class Job:
    """Processes that run one command, know each other's number and end together."""

    def __init__(self) -> None:
        self.num_asked = 0  # how often we were asked to stop
        self.children: list[Child] = []
        self._ended: list[Child] = []  # in the order in which we saw them end
        self._said: collections.deque[bytes] = collections.deque(maxlen=1000)  # lines that need not be repeated
        self._selector = selectors.DefaultSelector()

    def ask_to_stop(self, *_: object) -> None:
        """Ask all processes to save and stop; if asked twice, to stop at once. A signal handler."""
        self.num_asked += 1

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the next process."""
        rank = len(self.children)
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if rank else None,  # process 0 may write to a terminal, with a progress bar
            stderr=subprocess.STDOUT if rank else subprocess.PIPE,
            start_new_session=True,  # we pass Ctrl-C on
            preexec_fn=_ending_with_parent(),
        )
        pipe = process.stdout if rank else process.stderr
        assert pipe is not None
        self.children.append(Child(rank, process, pipe))
        self._selector.register(pipe, selectors.EVENT_READ, self.children[-1])

    def running(self) -> list[Child]:
        """Return the processes that have not ended."""
        return [child for child in self.children if child.status is None]

    def failed(self) -> list[Child]:
        """Return the processes that failed, likely causes before likely victims."""
        fine = {0, EXIT_PREEMPTED, *([-signal.SIGTERM] if self.num_asked else [])}  # ended before it could save
        self._ended += [child for child in self.children if child.status is not None and child not in self._ended]
        return sorted((child for child in self._ended if child.status not in fine), key=_victimhood)

    def wait(self, grace_seconds: float) -> None:
        """Return when all have ended, or when the rest should be stopped."""
        num_passed_on, since = 0, {}
        while self.running():
            self.pass_on_output(SECONDS_BETWEEN_LOOKS)
            if self.num_asked > num_passed_on:
                num_passed_on = self.num_asked
                self.terminate()
            patience = self._patience(grace_seconds)
            if patience is not None:
                reason, seconds = patience
                if time.monotonic() - since.setdefault(reason, time.monotonic()) >= seconds:
                    return

    def _patience(self, grace_seconds: float) -> tuple[str, float] | None:
        """Return why the rest should end unforced and the seconds they have for it; `None` without a reason."""
        failed = self.failed()
        if self.num_asked > 1:
            return "asked again", 0.0
        if failed:  # so that the rest cannot save
            return "failed", 0.0 if _victimhood(failed[0]) == 0 else SECONDS_TO_SETTLE
        if self.num_asked or any(child.status == EXIT_PREEMPTED for child in self._ended):
            return "asked", grace_seconds  # they save
        return None

    def terminate(self) -> None:
        """Ask the running processes to end."""
        for child in self.running():
            child.process.terminate()

    def stop(self, seconds: float) -> None:
        """End the running processes: after `seconds` by force, with everything that they started."""
        self.terminate()
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            self.pass_on_output(SECONDS_BETWEEN_LOOKS)
        for child in self.children:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # its whole process group has ended
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()

    def pass_on_output(self, seconds: float) -> bool:
        """Read for up to `seconds` or until there is output, and show what is due; return whether anything was read."""
        ready = self._selector.select(seconds)
        for key, _ in ready:
            child, chunk = key.data, os.read(key.fd, 1 << 16)
            if not chunk:
                self._selector.unregister(key.fileobj)
            *lines, child.rest = (child.rest + (chunk or b"\n" * bool(child.rest))).split(b"\n")
            if child.rank == 0:
                _write(sys.stderr, chunk)
                self._said.extend(lines)
            else:
                child.held.extend((time.monotonic(), line) for line in lines)
        for child in self.running():
            while child.held and child.held[0][0] < time.monotonic() - SECONDS_HELD:
                self._show(child, child.held.popleft()[1])
        return bool(ready)

    def _show(self, child: Child, line: bytes) -> None:
        if line not in self._said:
            _write(sys.stdout, b"[%d] %s\n" % (child.rank, line))

    def show_last_words(self) -> None:
        """Show the last output of ended processes: no line twice, and no report by JAX that it lost another process."""
        until = time.monotonic() + SECONDS_HELD  # a process that inherited the pipes may go on writing
        while self.pass_on_output(0) and time.monotonic() < until:
            pass
        first = self.failed()[:1]
        for child in self._ended:
            if child in first or child.status not in (-signal.SIGABRT, EXIT_LOST):
                for _, line in child.held:
                    self._show(child, line)
                self._said.extend(line for _, line in child.held)
            child.held.clear()


def launch(command: list[str], num_processes: int, num_devices: int | None, grace_seconds: float) -> int:
    """Run a command in several processes until all have ended, and return the exit status.

    Args:
      command: the program and its arguments, the same in every process.
      num_processes: number of processes.
      num_devices: number of CPU devices of each process; None leaves it to JAX.
      grace_seconds: seconds that they have for saving when asked to stop.
    """
    job = Job()
    before = {number: signal.signal(number, job.ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        address = f"127.0.0.1:{free_port()}"
        for rank in range(num_processes):
            job.start(command, environment_of(rank, num_processes, num_devices, address))
        job.wait(grace_seconds)
        return _conclude(job)
    finally:
        job.stop(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(job: Job) -> int:
    """Say how the job ended, stop what is left of it, and return the exit status."""
    failed, left, num_processes = job.failed(), job.running(), len(job.children)
    job.show_last_words()
    has_said_why = bool(failed) and job.children[0].status == failed[0].status in (EXIT_MISTAKE, EXIT_USAGE)
    others = "; stopping the others" if left else ""
    if failed and not has_said_why:
        _say(f"process {failed[0].rank} of {num_processes} {_how_it_ended(failed[0])}{others}")
    elif left:
        _say(f"process {', '.join(str(child.rank) for child in left)} of {num_processes} did not leave in time{others}")
    job.stop(0 if job.num_asked else SECONDS_TO_END)  # if we were asked to stop, none of them can save any more
    job.show_last_words()
    if failed:
        status = failed[0].status or 0
        if 0 < status < 128 and status != EXIT_LOST:  # for shells and containers, larger numbers mean signals
            return EXIT_USAGE if status == EXIT_USAGE else EXIT_MISTAKE
        return EXIT_LOST
    if left:
        return EXIT_LOST
    return EXIT_PREEMPTED if any(child.status for child in job.children) else 0


def _victimhood(child: Child) -> int:
    """Rank how likely a process failed only because another one did."""
    if child.status == EXIT_LOST:  # its own exit status says so
        return 3
    if child.status == -signal.SIGABRT:  # JAX aborts when process 0 is gone
        return 2
    return 0 if (child.status or 0) < 0 else 1


def _how_it_ended(child: Child) -> str:
    status = child.status or 0
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by signal {-status} ({signal.Signals(-status).name})"


def free_port() -> int:
    """Return a free port on this machine for process 0 to listen on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment_of(rank: int, num_processes: int, num_devices: int | None, address: str) -> dict[str, str]:
    """Return the environment variables that tell a process its place in the job; see `jmeta.runs.processes.join`."""
    environment = {
        **os.environ,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,  # JAX's own choice is open to the network
        "JMETA_NUM_PROCESSES": str(num_processes),
        "JMETA_PROCESS_ID": str(rank),
        "PYTHONUNBUFFERED": "1",
    }
    if num_devices is not None:
        flag = f"--xla_force_host_platform_device_count={num_devices}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}".strip()
        environment.setdefault("JAX_PLATFORMS", "cpu")
    return environment


def _ending_with_parent() -> Callable[[], None] | None:
    """Return a function for a new process to call first, so that Linux kills it when this one ends in any way."""
    if sys.platform != "linux":
        return None
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call above
            os.kill(os.getpid(), signal.SIGKILL)

    return end_with_parent


def _write(stream: TextIO, text: bytes) -> None:
    stream.buffer.write(text)
    stream.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jmeta launch",
        description="Start several processes of a command on this machine, joined into one job.",
        epilog=f"""exit status:
  0   all processes ended well
  {EXIT_MISTAKE}   a mistake, of which process 0 has said what it is; {EXIT_USAGE} if it is in the script's options
  {EXIT_LOST}  a process was lost; the same command goes on from the last checkpoint
  {EXIT_PREEMPTED}  the job was asked to stop, and saved; the same command goes on from there

example:
  jmeta launch --processes 4 --devices 2 train glyphs_maml --mesh tasks=8""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=_at_least_one, required=True, metavar="N", help="how many to start")
    parser.add_argument("--devices", type=_at_least_one, metavar="D", help="CPU devices that each is to have")
    help_grace = "how long they may take to save after SIGTERM or Ctrl-C, before they are killed (default: %(default)s)"
    parser.add_argument("--grace-seconds", type=_seconds, default=60.0, metavar="S", help=help_grace)
    help_command = "a command of jmeta, such as train; a script, ending in .py; or a module after -m"
    parser.add_argument("command", help=help_command)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments, the same for all processes")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds of at least 0, not {text}")
    return seconds


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args([*_module_as_one_word(arguments)])
    command = [sys.executable, *_as_python_takes(options.command), *options.arguments]
    if {"-h", "--help"} & set(options.arguments):  # the same help in every process
        return subprocess.call(command)
    return launch(command, options.processes, options.devices, options.grace_seconds)


def _module_as_one_word(arguments: list[str]) -> list[str]:
    """Join `-m MODULE` into one word, or it would be taken for an option of ours; another `-m` is the command's own."""
    i = 0
    while i < len(arguments) and arguments[i] != "-m" and arguments[i].startswith("-"):
        i += 1 if "=" in arguments[i] else 2  # every option of ours has a value
    if arguments[i : i + 1] != ["-m"]:
        return arguments
    return [*arguments[:i], " ".join(arguments[i : i + 2]), *arguments[i + 2 :]]


def _as_python_takes(command: str) -> list[str]:
    if command.startswith("-m "):
        return ["-m", command.removeprefix("-m ")]
    return [command] if command.endswith(".py") else ["-m", "jmeta", command]
