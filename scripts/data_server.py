"""Makes training batches for another host, whose own CPUs cannot feed its GPUs. See docs/data_service.md.

python scripts/data_server.py --role=dispatcher --port=5000
python scripts/data_server.py --role=worker --dispatcher=HOST:5000        on each host that makes batches
then train with --gin_param="train.data_service = @data_service()" --gin_param="data_service.address = 'HOST:5000'"
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

import contextlib
import signal
import socket

import tensorflow as tf
from absl import flags

from data.errors import UserError
from data.service import reach

# Seconds for which a worker waits for its dispatcher to start.
PATIENCE = 60.0


def main() -> int:
    # Its processors are what it is there for.
    tf.config.set_visible_devices([], "GPU")
    server = _dispatcher() if launch.required("role") == "dispatcher" else _worker()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()
    print("ends", flush=True)
    del server
    return 0


def _dispatcher():
    port = flags.FLAGS.port
    config = tf.data.experimental.service.DispatcherConfig(port=port)
    server = _started(lambda: tf.data.experimental.service.DispatchServer(config))
    address = f"{socket.gethostname()}:{server.target.rpartition(':')[2]}"
    print(f"dispatcher: {address}", flush=True)
    return server


def _worker():
    dispatcher = launch.required("dispatcher")
    host = flags.FLAGS.host or _own_address(dispatcher)
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=f"{host}:{flags.FLAGS.port or '%port%'}",
        port=flags.FLAGS.port,
    )
    server = _started(lambda: tf.data.experimental.service.WorkerServer(config))
    print(f"data worker: {host}, for the dispatcher {dispatcher}", flush=True)
    return server


def _own_address(dispatcher: str) -> str:
    """Under which address the dispatcher sees this host; waits for it to listen."""
    host, _, port = dispatcher.rpartition(":")
    try:
        return reach((host, int(port)), within=PATIENCE)
    except ValueError as error:
        raise UserError(
            f"--dispatcher={dispatcher}", where="command line", expected="host:port", do="--dispatcher=HOST:5000"
        ) from error
    except OSError as error:
        raise UserError(
            f"nobody answers at {dispatcher}: {error}",
            where="--dispatcher",
            expected="a dispatcher that listens there",
            do="start it: scripts/data_server.py --role=dispatcher --port=...",
        ) from error


def _started(start):
    try:
        return start()
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            f"the port {flags.FLAGS.port} cannot be served: {' '.join(str(error).split())[:200]}",
            where="--port",
            expected="a free port",
            do="choose another --port",
        ) from error


def run() -> None:
    """Entry point of `onward-data-server`."""
    flags.DEFINE_enum("role", None, ["dispatcher", "worker"], "The dispatcher, one for all, or a worker, one a host.")
    flags.DEFINE_integer("port", 0, "Port to listen at; 0: any free one.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_string("dispatcher", None, "host:port of the dispatcher, for a worker.")
    flags.DEFINE_string("host", None, "Name under which trainers reach this worker; found out if not given.")
    launch.run(main)


if __name__ == "__main__":
    run()
