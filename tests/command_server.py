"""Runs the project's commands in forks of one process that has imported TensorFlow: the import is paid for once.

Each fork is a process of its own: its devices, signals and exit status are those of `python scripts/SCRIPT.py`.
Takes one JSON request a line, answers with one JSON line:
{"start": "train", "arguments": [...], "environment": {...}, "output": path, "folder": where or null} -> its pid;
{"wait": pid, "seconds": limit} -> its exit status.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback


def become(script: str, arguments: list[str], environment: dict[str, str], output: str, folder: str | None) -> None:
    """Ends the process with the status of the command; both its streams go to `output`."""
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
    os.dup2(1, 2)
    if folder:
        os.chdir(folder)
    os.environ.update(environment)
    sys.argv = [f"{script}.py", *arguments]
    status = 1
    try:
        importlib.import_module(f"scripts.{script}").run()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(pid: int, seconds: float) -> int:
    """Exit status, negative for a signal; what runs longer than allowed is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve() -> None:
    for script in ("train", "launch", "check_devices", "evaluate", "audit", "predict", "preview", "export", "report"):
        importlib.import_module(f"scripts.{script}")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = wait(request["wait"], request["seconds"])
        else:
            answer = os.fork()
            if not answer:
                told = (request.get("environment", {}), request["output"], request.get("folder"))
                become(request["start"], request["arguments"], *told)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
