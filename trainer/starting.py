"""What a start leaves in the workdir of its session: its configuration, its table, and where it runs."""

import tensorflow as tf

from data import frozen as tables
from data.errors import UserError
from data.frozen import Frozen
from trainer import launch
from trainer.cluster import Cluster
from trainer.recipe import ALWAYS, Recipe
from trainer.reports import environment
from trainer.workdir import Workdir, read_json, write_json, write_text


def facts(
    recipe: Recipe,
    strategy: tf.distribute.Strategy,
    data: Frozen,
    *,
    session: str,
    cluster: Cluster,
    chosen: dict[str, str],
) -> dict:
    """What `environment.json` holds; `chosen`: why, of each setting that was chosen by measuring."""
    return environment.describe(
        strategy,
        project=launch.PROJECT,
        precision=recipe.precision,
        xla=recipe.xla == ALWAYS,
        reduction_bytes=recipe.reduction_bytes,
        chosen=chosen,
        deterministic=recipe.deterministic,
        seed=recipe.seed,
        data_fingerprint=data.examples.fingerprint(),
        session=session,
        workers=cluster.workers,
    )


def chosen(workdir: Workdir) -> dict[str, str]:
    """What an earlier start has said of its choices; nothing where that is lost: the choices are in config.gin."""
    try:
        found = read_json(workdir.environment).get("chosen")
    except UserError:
        return {}
    told = found.items() if isinstance(found, dict) else ()
    return {name: why for name, why in told if isinstance(why, str)}


def doubts(workdir: Workdir, facts: dict) -> list[str]:
    """Why a session may not go on bit for bit, a sentence each."""
    try:
        changes = environment.mismatches(read_json(workdir.environment), facts)
    except UserError as error:
        changes = [error.found]
    return [f"perhaps not bit for bit the same from here on: {change}" for change in changes]


def write(workdir: Workdir, *, config: str, data: Frozen, facts: dict, session: str, step: int) -> None:
    """Writes all of it.

    Args:
        config: operative configuration, gin text.
        facts: of `facts`.
        step: at which the session stands.
    """
    tables.save(workdir.examples, data, session=session)
    write_text(workdir.config, config)
    write_text(workdir.path / f"config-{step}.gin", config)
    write_json(workdir.classes, list(data.examples.class_names))
    write_json(workdir.environment, facts)
