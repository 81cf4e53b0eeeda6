"""A session whose batches other hosts make trains as if it made them itself."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import checkpoints

pytestmark = pytest.mark.usefixtures("no_page")


def weights(folder) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(checkpoints.find(folder / "checkpoints", "last")))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_a_session_fed_by_a_data_worker_ends_in_the_same_bits(open_session, finished_once, tmp_path, capsys):
    servers = tf.data.experimental.service
    dispatcher = servers.DispatchServer()
    address = dispatcher.target.partition("://")[2]
    worker = servers.WorkerServer(servers.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100))
    bindings = ("train.data_service = @data_service()", f"data_service.address = {address!r}")
    assert open_session(tmp_path / "fed", "train.deterministic = True", *bindings).run() == 0
    worker._stop()
    dispatcher._stop()
    assert "1 data worker answers" in capsys.readouterr().out
    straight, fed = weights(finished_once), weights(tmp_path / "fed")
    # Where the object graph of the checkpoint is written, names and places of objects are told.
    assert straight.keys() == fed.keys()
    for name, values in straight.items():
        if not name.startswith("_CHECKPOINTABLE"):
            np.testing.assert_array_equal(values, fed[name], err_msg=name)
