"""A session's files know whose they are."""

import json

import pytest

from trainer import identity
from trainer.workdir import Workdir, write_json


@pytest.fixture
def workdir(finished):
    return Workdir(str(finished))


def names(workdir):
    manifests = workdir.checkpoints.glob("ckpt-*.manifest.json")
    return {json.loads(path.read_text())["session"] for path in manifests}


def test_all_are_called_alike(workdir):
    assert names(workdir) == {identity.of(workdir)}


def test_the_name_is_found_again_where_the_environment_is_lost(workdir):
    workdir.environment.unlink()
    assert {identity.of(workdir)} == names(workdir)


def test_nobody_knows_where_nothing_tells(workdir):
    workdir.environment.unlink()
    for path in workdir.checkpoints.glob("ckpt-*.manifest.json"):
        path.unlink()
    assert identity.of(workdir) is None


def test_an_environment_of_another_session_is_refused(workdir, complaint):
    facts = json.loads(workdir.environment.read_text())
    write_json(workdir.environment, facts | {"session": "theirs"})
    with complaint("theirs", "environment.json", "remove it"):
        identity.of(workdir)


def test_a_session_keeps_its_name_when_it_goes_on(workdir, finished, open_session):
    before = identity.of(workdir)
    workdir.environment.unlink()
    assert open_session(finished, "train.deterministic = True").run() == 0
    assert identity.of(workdir) == before
