"""A process that has imported what the scripts need, and forks children that run them: they start in an instant.

`Nursery` is the tests' side (fixture `nursery`); run as a program, this file is the other one. Each line that
it reads is a JSON list, what to do and with what; each is answered by one line.
"""

import gc
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent


class Nursery:
    """Starts scripts in children of a prepared process."""

    def __init__(self):
        paths = [".", "tests", "tests/training"]
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=TESTS.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, *question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, errors, program, *argv, limit=None, environment=()):
        """Start a program, stderr into a file; no file may grow beyond `limit` bytes. Return its process id.

        The program is a script, as `script_tools.script` takes it, or `module:function`.
        """
        return self._ask("start", str(errors), program, list(map(str, argv)), limit, dict(environment))

    def start_job(self, errors, program, *argvs, restarted=False):
        """Start the processes of one job, as torchrun would (again), each with its flags; return their process ids.

        Rank n writes stderr into the file `errors` with `.n` behind.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"WORLD_SIZE": str(len(argvs)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if restarted:
            job |= {"TORCHELASTIC_MAX_RESTARTS": "1", "TORCHELASTIC_RESTART_COUNT": "1"}
        return [
            self.start(f"{errors}.{n}", program, *argv, environment=job | {"RANK": str(n), "LOCAL_RANK": str(n)})
            for n, argv in enumerate(argvs)
        ]

    def status(self, pid):
        """Return the exit status (negative: the signal), None while it runs. Until then its id is no one else's."""
        return self._ask("status", pid)

    def send(self, pid, number):
        """Send a signal to one that has not been seen to end."""
        if self.status(pid) is None:
            os.kill(pid, number)

    def wait(self, pid, seconds=200):
        """Return the exit status of one that ends in time."""
        end = time.monotonic() + seconds
        while (status := self.status(pid)) is None:
            assert time.monotonic() < end, f"runs for more than {seconds} s"
            time.sleep(0.005)
        return status

    def run(self, errors, program, *argv, limit=None):
        """Run a program to its end; return the exit status."""
        return self.wait(self.start(errors, program, *argv, limit=limit))

    def close(self):
        """End it, and those that still run."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def be_the_child(errors, program, argv, limit, environment):
    """Run the program: never returns."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ |= environment
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if ":" in program:
        module, function = program.split(":")
        sys.exit(getattr(importlib.import_module(module), function)(*argv))
    from script_tools import script

    sys.exit(script(program, *argv))


def main():
    import torch

    # What the scripts import late, and the first optimizer and data set: it stays, for the children.
    for name in (
        "pcdiff.commands.training",
        "pcdiff.commands.scoring",
        "image_pipeline.commands.perform",
        "torch._dynamo",
        "sklearn.datasets",
    ):
        importlib.import_module(name)
    gc.freeze()  # a child that ends would go through all of it once more
    torch.set_num_threads(1)  # a process with threads must not fork
    children, ended = set(), {}
    for line in sys.stdin:
        what, *given = json.loads(line)
        if what == "start":
            answer = os.fork()
            if answer == 0:
                be_the_child(*given)
            children.add(answer)
            ended.pop(answer, None)
        else:
            if given[0] in children:
                pid, status = os.waitpid(given[0], os.WNOHANG)
                if pid:
                    children.discard(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(given[0])
        print(json.dumps(answer), flush=True)
    for pid in children:  # of a test that failed
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
