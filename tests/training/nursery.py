"""A process that has imported what train_gen.py needs, and forks children that run it: they start in an instant.

`Nursery` is the tests' side; run as a program, this file is the other one. Each line that it reads is a JSON list,
what to do and with what; each is answered by one line.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Nursery:
    """Starts `train_gen.py` in children of a prepared process."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=HERE.parent.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([".", "tests"])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, *question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, errors, *argv, limit=None):
        """Start the script, stderr into a file; no file may grow beyond `limit` bytes. Return its process id."""
        return self._ask("start", str(errors), limit, list(map(str, argv)))

    def status(self, pid):
        """Return the exit status (negative: the signal), None while it runs. Until then its id is no one else's."""
        return self._ask("status", pid)

    def run(self, errors, *argv, limit=None):
        """Run the script to its end; return the exit status."""
        return self._ask("wait", self.start(errors, *argv, limit=limit))

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def run_script(errors, limit, argv):
    """Be the child: never returns."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from script_tools import script

    sys.exit(script("train_gen.py", *argv))


def main():
    import torch

    import pcdiff.commands.training
    import pcdiff.training.after_training
    import pcdiff.training.dry_run  # noqa: F401 - imported for the children

    torch.set_num_threads(1)  # a process with threads must not fork
    for line in sys.stdin:
        what, *given = json.loads(line)
        if what == "start":
            answer = os.fork()
            if answer == 0:
                run_script(*given)
        else:
            pid, status = os.waitpid(given[0], os.WNOHANG if what == "status" else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
