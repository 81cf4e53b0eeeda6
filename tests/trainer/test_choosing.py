"""What a session chooses by measuring, and what stays of that choice."""

import dataclasses
import json

import gin
import pytest
import tensorflow as tf

from data.errors import RunFailure
from trainer import checkpoints, choosing, devices, launch, plan, probing
from trainer.probing import Spent
from trainer.recipe import Recipe
from trainer.reports.console import Console

pytestmark = pytest.mark.usefixtures("no_page")

DETERMINISTIC = "train.deterministic = True"
MEMORY = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[8,16,16,3]")


@pytest.fixture
def measured(monkeypatch):
    """Real steps are measured; what is then told of them is `seconds`, by precision; errors are raised."""
    seconds = {"float32": 1.0, "mixed_bfloat16": 1.0}
    seen = []

    def step(state, recipe, frozen, *, strategy):
        probing_step(state, recipe, frozen, strategy=strategy)
        seen.append(recipe.precision)
        told = seconds[recipe.precision]
        if isinstance(told, Exception):
            raise told
        return Spent(told, told)

    probing_step = probing.step
    monkeypatch.setattr(probing, "step", step)
    return seconds, seen


def weights_of(folder):
    found = checkpoints.read(checkpoints.find(folder / "checkpoints", "last"))
    return {name: value.tobytes() for name, value in found.items()}


def test_a_choice_has_the_bits_of_the_same_precision_by_name_and_is_kept(
    tmp_path, open_session, measured, complaint, capsys
):
    seconds, seen = measured
    seconds["mixed_bfloat16"] = 0.5
    auto, named = tmp_path / "auto", tmp_path / "named"
    shorter = (DETERMINISTIC, "train.stages = [@head/stage()]")
    assert open_session(auto, *shorter, "precision = 'auto'").run() == 0
    assert open_session(named, *shorter, "precision = 'mixed_bfloat16'").run() == 0
    assert seen == ["float32", "mixed_bfloat16"]
    assert weights_of(auto) == weights_of(named)
    assert (auto / "config.gin").read_text() == (named / "config.gin").read_text()
    facts = json.loads((auto / "environment.json").read_text())
    assert facts["precision"] == "mixed_bfloat16"
    told = "images a second: float32 8, mixed_bfloat16 16;"
    assert facts["chosen"]["precision"].startswith(told) and told in " ".join(capsys.readouterr().out.split())

    # Whatever a clock would say at another start.
    seconds["mixed_bfloat16"] = 5.0
    for refused in ("precision = 'float32'", "precision = 'mixed_float16'"):
        with complaint("precision: 'mixed_bfloat16' -> "):
            open_session(auto, *shorter, refused)
    for same in ("precision = 'mixed_bfloat16'", "precision = 'auto'"):
        again = open_session(auto, *shorter, same)
        again._choose()
        assert again.recipe.precision == "mixed_bfloat16" and again.chosen == facts["chosen"]
    assert len(seen) == 2


def test_the_exact_precision_stays_unless_another_is_clearly_faster():
    best = choosing.best
    assert best({"float32": 100.0, "mixed_bfloat16": 109.0})[0] == "float32"
    assert best({"float32": 100.0, "mixed_bfloat16": 111.0, "mixed_float16": 120.0})[0] == "mixed_bfloat16"
    assert best({"float32": 100.0, "mixed_bfloat16": 111.0, "mixed_float16": 130.0})[0] == "mixed_float16"
    chosen, why = best({"float32": MEMORY, "mixed_bfloat16": 3.0})
    assert chosen == "mixed_bfloat16" and "float32 does not work" in why
    with pytest.raises(tf.errors.ResourceExhaustedError):
        best({"float32": MEMORY, "mixed_bfloat16": MEMORY})


def test_a_batch_that_fits_in_no_precision_ends_the_start(tmp_path, open_session, complaint, monkeypatch):
    def no_memory(*arguments, **named):
        raise MEMORY

    monkeypatch.setattr(choosing, "TrainingState", no_memory)
    with complaint("out of memory", "batch_size = 4", kind=RunFailure):
        open_session(tmp_path, "precision = 'auto'").run()
    assert not (tmp_path / "environment.json").exists()


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), ("float32",)),
        ((7, 5), ("float32", "mixed_float16")),
        ((8, 0), ("float32", "mixed_bfloat16", "mixed_float16")),
    ],
)
def test_gpus_are_asked_for_what_they_have_units_for(monkeypatch, capability, expected):
    details = {"one": {"compute_capability": (9, 0)}, "other": {"compute_capability": capability}}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(details))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)

    class Gpus:
        num_replicas_in_sync = 1
        extended = type("Extended", (), {"worker_devices": ["/GPU:0"]})

    assert choosing.precisions(Gpus) == expected
    assert choosing.why_without_xla(Gpus) is None


def test_xla_is_left_out_on_cpus_without_measuring(small):
    launch.parse_gin([small], ["train.xla = 'auto'"])
    recipe = launch.call(Recipe)
    nothing = {"strategy": devices.set_up("cpu"), "task": "single_label", "loss": None}
    chosen, why = choosing.choose(recipe, None, None, **nothing)
    assert chosen == dataclasses.replace(recipe, xla="never") and "slower under XLA" in why["xla"]


def test_choices_are_written_where_auto_stands(small):
    launch.parse_gin([small], ["precision = %numbers", "numbers = 'auto'", "train.xla = 'always'"])
    recipe = launch.call(Recipe)
    config = gin.operative_config_str()
    chosen = choosing.remembered(recipe, config.replace("numbers = 'auto'", "numbers = 'mixed_float16'"))
    assert (chosen.precision, chosen.xla) == ("mixed_float16", "always")
    found = launch.settings(choosing.written(config, chosen))
    assert found["numbers"] == "'mixed_float16'" and found["precision"] == "%numbers"
    with pytest.raises(Exception, match="where a choice was to be found"):
        choosing.remembered(recipe, config)


def test_a_plan_says_what_will_be_measured(small):
    launch.parse_gin([small], ["precision = 'auto'", "train.xla = 'auto'"])
    rows = dict(plan.explain(launch.call(Recipe), Console(), device_spec="cpu").rows)
    assert "float32, mixed_bfloat16 will be measured at the first start" in rows["precision"]
    assert "not measured" in rows["xla"] and rows["batch"].endswith("float32")


def test_what_measures_nothing_refuses_to_guess(small, complaint):
    launch.parse_gin([small], ["precision = 'auto'"])
    recipe = launch.call(Recipe)
    with complaint("train.precision = 'auto'", "float32, mixed_float16"):
        recipe.model.build(image_size=16, classes=2, precision=recipe.precision)
