"""The fork server: has imported the heavy modules, holds no backend, forks a child per worker and reaps them all.

Started as `python -m coopt.workers.server SOCKET MODULES`. It runs no job and starts no threads, so it can always
answer; it ends, and all below it, when the socket to its parent closes or the parent dies.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import signal
import socket
import sys
import threading
import time

from coopt.workers import child, frames, kernel


def main(arguments: list[str]) -> None:
    """Imports the named modules, reports ready (or what failed), then serves."""
    descriptor, parent, bound, *modules = arguments
    requests = socket.socket(fileno=int(descriptor))
    os.set_inheritable(requests.fileno(), False)
    if bound == "bound":
        kernel.die_with(int(parent))
    kernel.adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    try:
        for module in modules:
            importlib.import_module(module)
        _refuse_backend()
    except (ImportError, RuntimeError) as error:
        frames.send(requests, {"failed": f"{type(error).__name__}: {error}"})
        return
    frames.send(requests, {"ready": os.getpid()})
    _serve(requests)


def _refuse_backend() -> None:
    """A fork after a JAX backend exists deadlocks (4 of 4 in trials): such a server must not serve."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        raise RuntimeError("a preloaded module has initialised a JAX backend; import it inside the job instead")
    if threading.active_count() > 1:
        raise RuntimeError("a preloaded module has started a thread; import it inside the job instead")


def _serve(requests: socket.socket) -> None:
    living: dict[int, socket.socket] = {}  # pid -> where to say that it ended
    ended_read, ended_write = os.pipe()
    os.set_blocking(ended_read, False)
    os.set_blocking(ended_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ended_write)
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(ended_read, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if ended_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(ended_read, 4096)
                _reap(living)
            if requests.fileno() in ready and not _fork(requests, living):
                break
    for pid in living:
        kernel.kill_group(pid)
    while living:
        time.sleep(0.005)
        _reap(living)
    os._exit(0)  # the imported modules have nothing to tidy up, and take half a second to do it


def _fork(requests: socket.socket, living: dict[int, socket.socket]) -> bool:
    """One request: three descriptors, for the job's channel, its end, and its stderr. False: the parent is gone."""
    try:
        message, descriptors = frames.receive(requests, descriptors=3)
    except ConnectionError:
        return False
    if message is None or len(descriptors) != 3:
        return False
    channel, end, stderr = descriptors
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        kernel.die_with(server)
        kernel.cap_files()
        os.close(end)
        requests.close()
        for other in living.values():
            other.close()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(stderr, 1)
        os.dup2(stderr, 2)
        os.close(stderr)
        child.main(socket.socket(fileno=channel))
    os.close(channel)
    os.close(stderr)
    living[pid] = socket.socket(fileno=end)
    with contextlib.suppress(ConnectionError):
        frames.send(living[pid], {"pid": pid})
    return True


def _reap(living: dict[int, socket.socket]) -> None:
    """Collects all ended children, tells whose job they were, and kills what they left behind."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        end = living.pop(pid, None)
        if end is None:
            continue  # an adopted orphan
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionError), end:
            frames.send(end, {"status": status})
    for orphan in set(kernel.children()) - set(living):
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
