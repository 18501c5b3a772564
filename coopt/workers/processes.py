"""The process executor: every job in a child of a fork server, watched from here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from coopt.problems import Problem, Refused
from coopt.workers import frames, kernel
from coopt.workers.job import Job
from coopt.workers.lease import LeaseTimeout, leased
from coopt.workers.outcome import Outcome, of_death, of_exception, of_result

START_LIMIT = 300.0  # s for the fork server's imports: ten times what a busy machine needs
REAP_LIMIT = 10.0  # s for the kernel to end a killed child
TAIL = 4096  # B of stderr that are kept
RESIDENT_LIMIT = 4 << 30  # B above which a worker is not used again
# Children keep what they free (glibc), as an accelerator's allocator does. Else each execution of a large block asks
# the kernel for its pages anew: clearing them takes up to four fifths of its time, and is most of what differs from one
# run to the next.
HEAP = MappingProxyType({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"})


@contextlib.contextmanager
def process(
    preload: tuple[str, ...] = ("jax",), *, reuse: int = 1, environment: Mapping[str, str] = HEAP
) -> Iterator[ProcessExecutor]:
    """An executor whose jobs run in child processes; leaving the context ends all of them.

    Args:
      preload: modules that the fork server imports once; they must initialise no JAX backend and start no thread.
      reuse: jobs a child serves before it is replaced; 1 gives every job a clean process.
      environment: of the children, where this process's own says nothing else.
    """
    executor = ProcessExecutor(preload, reuse, environment)
    try:
        yield executor
    finally:
        executor.close()


@dataclasses.dataclass
class _Worker:
    """A child: its process id and the three ends it is watched through."""

    channel: socket.socket
    end: socket.socket
    stderr: int
    pid: int = 0
    served: int = 0
    ended: bool = False
    buffers: tuple[bytearray, bytearray] = dataclasses.field(default_factory=lambda: (bytearray(), bytearray()))

    def close(self) -> None:
        """Forgets the child; it must have ended."""
        self.channel.close()
        self.end.close()
        os.close(self.stderr)


class ProcessExecutor:
    """See `process`. Threads may share one executor."""

    def __init__(self, preload: tuple[str, ...], reuse: int, environment: Mapping[str, str] = HEAP):
        self._preload = preload
        self._environment = environment
        self._reuse = reuse
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        self._requests: socket.socket | None = None
        self._idle: list[_Worker] = []

    def run(self, job: Job) -> Outcome:
        """Runs one job to an outcome; see `coopt.workers.run`."""
        asked = {"path": job.path, "payload": job.payload, "memory_cap": job.memory_cap}
        frames.encode(asked)  # a payload that is not JSON fails here, in the caller's own frame
        try:
            with leased(job) as held:
                return self._run(asked, job.deadline_s, () if held is None else (held,))
        except LeaseTimeout as late:
            return late.outcome()

    def close(self) -> None:
        """Ends the server and every child."""
        with self._lock:
            self._forget()
            if self._server is not None:
                try:
                    self._server.wait(REAP_LIMIT)
                except subprocess.TimeoutExpired:
                    self._server.kill()
                    self._server.wait()
                self._server = None

    def _forget(self) -> None:
        """Closes all connections to the server: its sign, if it lives, to kill its children and leave."""
        for worker in self._idle:
            worker.close()
        self._idle.clear()
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def _run(self, job: dict, deadline_s: float, held: tuple[int, ...]) -> Outcome:
        worker = self._worker()
        keep = False
        try:
            started = time.monotonic()
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # a dead child is found by watching it
                frames.send(worker.channel, job, descriptors=held)
            available = float(job["memory_cap"] or kernel.available_memory())
            message, tail, phase = _watch(worker, started + deadline_s)
            outcome = _judge(message, tail, phase, available, deadline_s)
            worker.served += 1
            keep = message.get("clean", False) and worker.served < self._reuse
            keep = keep and not kernel.resident(worker.pid) > RESIDENT_LIMIT
            return dataclasses.replace(outcome, stderr=tail, seconds=time.monotonic() - started)
        finally:
            # Also on Ctrl-C: whatever happened, the child is either idle or gone before this returns.
            if keep:
                with self._lock:
                    self._idle.append(worker)
            else:
                _end(worker)

    def _worker(self) -> _Worker:
        with self._lock:
            requests = self._requests
            if requests is None or self._server is None or self._server.poll() is not None:
                requests = self._start()
            while self._idle:
                worker = self._idle.pop()
                if kernel.resident(worker.pid) > 0:
                    return worker
                worker.close()
            channel, theirs = socket.socketpair()
            end, theirs_end = socket.socketpair()
            stderr, theirs_stderr = os.pipe()
            try:
                descriptors = (theirs.fileno(), theirs_end.fileno(), theirs_stderr)
                frames.send(requests, {}, descriptors=descriptors)
            finally:
                theirs.close()
                theirs_end.close()
                os.close(theirs_stderr)
        end.settimeout(START_LIMIT)
        message, _ = frames.receive(end)
        if message is None:
            raise RuntimeError("the fork server ended while it started a child")
        return _Worker(channel=channel, end=end, stderr=stderr, pid=message["pid"])

    def _start(self) -> socket.socket:
        self._forget()
        ours, theirs = socket.socketpair()
        # The parent-death signal follows the *thread* that starts the server, so it is only asked for on the main
        # thread; the closing of the socket ends the server in every case.
        bound = "bound" if threading.current_thread() is threading.main_thread() else "free"
        folders = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "coopt.workers.server", str(theirs.fileno()), str(os.getpid()), bound]
                + list(self._preload),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**self._environment, **os.environ, "PYTHONPATH": folders},
            )
        ours.settimeout(START_LIMIT)
        message, _ = frames.receive(ours)
        ours.settimeout(None)
        if message is None or "failed" in message:
            self._server.kill()
            self._server.wait()
            ours.close()
            said = message["failed"] if message else "it ended before it was ready"
            raise RuntimeError(f"the fork server could not start: {said}")
        self._requests = ours
        return ours


def _watch(worker: _Worker, until: float) -> tuple[dict, str, str]:
    """Listens to a child until it answers, dies, or is late: its last message, the tail of stderr, its phase."""
    tail = bytearray()
    phase = "start"
    answers, ends = worker.buffers
    with selectors.DefaultSelector() as selector:
        for source in (worker.channel, worker.end, worker.stderr):
            selector.register(source, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return {"late": True}, _text(tail), phase
            # stderr first, so that the last words are in hand when the end is.
            ready = sorted((key.fileobj for key, _ in selector.select(left)), key=lambda f: f is not worker.stderr)
            for source in ready:
                data = os.read(source if isinstance(source, int) else source.fileno(), 1 << 16)
                if not data:
                    selector.unregister(source)
                if source is worker.stderr:
                    tail = (tail + data)[-TAIL:]
                elif source is worker.channel:
                    answers += data
                else:
                    ends += data
                    if not data and not ends:
                        return {"lost": True}, _text(tail), phase
            try:
                for message in frames.take(answers):
                    if "phase" not in message:
                        return message, _text(tail), phase
                    phase = str(message["phase"])
            except frames.Damaged as damage:
                return {"error": {"type": "Damaged", "message": str(damage)}}, _text(tail), phase
            for message in frames.take(ends):
                worker.ended = True
                return _last(worker, message, tail, phase)


def _last(worker: _Worker, message: dict, tail: bytearray, phase: str) -> tuple[dict, str, str]:
    """The child has ended: what it still managed to say counts, then its status."""
    answers, _ = worker.buffers
    for source, buffer in ((worker.channel.fileno(), answers), (worker.stderr, tail)):
        os.set_blocking(source, False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := os.read(source, 1 << 16):
                buffer += data
                if buffer is tail:
                    del buffer[:-TAIL]
    with contextlib.suppress(frames.Damaged):
        for said in frames.take(answers):
            if "phase" not in said:
                return said, _text(tail), phase
            phase = str(said["phase"])
    return message, _text(tail), phase


def _text(tail: bytearray) -> str:
    return bytes(tail).decode(errors="replace")


def _judge(message: dict, tail: str, phase: str, available: float, deadline_s: float) -> Outcome:
    if "result" in message:
        return of_result(message["result"])
    if "refused" in message:
        raise Refused(*(Problem(**problem) for problem in message["refused"]))
    if "error" in message:
        return of_exception(message["error"]["type"], message["error"]["message"], phase, available)
    if "late" in message:
        return Outcome(status="timeout", phase=phase, message=f"killed after {deadline_s:g} s in phase {phase}")
    if "status" in message:
        code = os.waitstatus_to_exitcode(message["status"])
        return of_death(f"exit {code}" if code >= 0 else _name(-code), tail, phase, available)
    return Outcome(status="crashed", phase=phase, signal="lost", message="the fork server ended during the job")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end(worker: _Worker) -> None:
    """Kills a child with its whole process group and waits until the server has reaped it."""
    if not worker.ended:  # a number that was reaped may already be another process's
        kernel.kill_group(worker.pid)
        worker.end.settimeout(REAP_LIMIT)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while worker.end.recv(4096):  # the server closes its end after the last word
                pass
    worker.close()
