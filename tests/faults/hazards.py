"""Jobs that go wrong in every way known to us, for children to run; nothing here is called in the test process."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time


def echo(payload):
    return {"echo": payload}


def process_id(payload):
    return {"pid": os.getpid()}


def product(payload):
    import jax.numpy as jnp

    x = jnp.full((64, 64), 2.0)
    return {"sum": float((x @ x).sum())}


def phases(payload, report):
    report("forward")
    time.sleep(60)


def hang(payload):
    time.sleep(600)


def nap(payload):
    time.sleep(1.0)  # native code: it returns when it returns
    return {}


def hang_holding_the_lock(payload):
    ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter's lock: no thread of this process can run


def hang_in_a_program(payload):
    import jax
    import jax.numpy as jnp

    jax.lax.while_loop(lambda x: x > -2, lambda x: jnp.cos(x) + 0.5, jnp.float32(1.0)).block_until_ready()
    return {}


def slow_compile(payload, report):
    import jax
    import jax.numpy as jnp

    def graph(x):
        for i in range(20000):
            x = jnp.sin(x) + i
        return x

    report("compile")
    jax.jit(graph).lower(jnp.ones(8)).compile()
    return {}


def die(payload):
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, payload["signal"]))
    time.sleep(60)


def touch_null(payload):
    ctypes.string_at(0)


def leave_silently(payload):
    os._exit(0)


def leave(payload):
    sys.exit(3)


def leave_in_atexit(payload):
    import atexit

    atexit.register(lambda: os._exit(7))
    return {"answered": True}


def raise_error(payload, report):
    report(payload["phase"])
    raise ValueError("no such shape")


def refuse(payload):
    from coopt.problems import Problem, Refused

    raise Refused(Problem(field="tp", expected="a divisor of 8", got="3"), Problem(field="pp", got="0"))


def not_a_dict(payload):
    return 7


def not_json(payload):
    return {"value": object()}


def unknown_outcome(payload):
    return {"outcome": "fine"}


def noisy(payload):
    return {"outcome": "noisy", "time": 1.0}


def python_memory(payload):
    return {"size": len(bytearray(payload["bytes"]))}


def numpy_memory(payload):
    import numpy as np

    return {"sum": float(np.ones(payload["bytes"] // 8).sum())}


def xla_memory(payload):
    import jax.numpy as jnp

    return {"sum": float(jnp.ones((payload["bytes"] // 4,), jnp.float32).block_until_ready()[0])}


def native_memory(payload):
    print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
    os.abort()


def grandchildren(payload):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if payload.get("then") == "hang":
        time.sleep(600)
    if payload.get("then") == "die":
        os.abort()
    return {}


def flood(payload):
    line = "x" * 1023
    for _ in range(payload["lines"]):
        print(line)
        print(line, file=sys.stderr)
    print("the end", file=sys.stderr)
    return {}


def poison(payload):
    import random

    import jax

    kind = payload["kind"]
    if kind == "environment":
        os.environ["COOPT_POISON"] = "1"
        del os.environ["PATH"]
    elif kind == "folder":
        os.chdir("/")
    elif kind == "x64":
        jax.config.update("jax_enable_x64", True)
    elif kind == "precision":
        jax.config.update("jax_default_matmul_precision", "bfloat16")
    elif kind == "nans":
        jax.config.update("jax_debug_nans", True)
    elif kind == "seed":
        random.seed(1)
    elif kind == "devices":
        jax.config.update("jax_num_cpu_devices", 3)
        jax.devices()
    elif kind == "memory":
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 33, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    return {"pid": os.getpid()}


def observe(payload):
    import random

    import jax

    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_num_cpu_devices")
    return {
        "pid": os.getpid(),
        "environment": [os.environ.get("COOPT_POISON"), "PATH" in os.environ],
        "folder": os.getcwd(),
        "configuration": [str(jax.config.values[name]) for name in names],
        "random": random.getstate()[1][0],
        "memory": resource.getrlimit(resource.RLIMIT_DATA)[0],
    }


def interval(payload):
    started = time.monotonic()
    time.sleep(0.01)
    return {"started": started, "ended": time.monotonic()}


def spin(payload):
    while True:
        pass


def large_file(payload):
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.truncate(payload["bytes"])
    return {}


def large_answer(payload):
    return {"text": "x" * payload["bytes"]}


def limits(payload):
    return {"core": resource.getrlimit(resource.RLIMIT_CORE)[0], "file": resource.getrlimit(resource.RLIMIT_FSIZE)[0]}


def flood_and_die(payload):
    flood(payload)
    os.abort()


def long_error(payload):
    raise ValueError("x" * payload["bytes"])


def tell_and_die(payload):
    for name, value in os.environ.items():
        print(f"{name}={value}", file=sys.stderr)
    secrets = [value for name, value in os.environ.items() if "planted" in value]
    print(" ".join(secrets)[:250], file=sys.stderr, flush=True)
    os.abort()


def tell_and_raise(payload, report):
    report("compile")
    raise ValueError(" ".join(value for value in os.environ.values() if "planted" in value))


def tell_and_answer(payload):
    return {"outcome": "ok", "message": "tell_and_answer", "environment": dict(os.environ)}


def faults(payload):
    """Pages asked of the kernel while 64 MiB are filled and freed, five times after a first."""
    counted = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = bytearray(b"x") * (64 << 20)
        del held
        counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {"faults": counted}
