"""What `--plan` tells is what a session would do."""

import pytest

from trainer import launch, plan
from trainer.recipe import Recipe
from trainer.reports.console import Console

STAGES = (
    "all/stage.trains = ['head', 'from block1']", "all/stage.factors = [('head', 2.0)]",
    "all/stage.layer_decay = 0.5", "all/stage.image_size = 24",
    "train.optimizer = @adamw()", "adamw.weight_decay = 0.05",
)  # fmt: skip


@pytest.fixture
def explained(small):
    def explain(*bindings):
        launch.parse_gin([small], bindings)
        return plan.explain(launch.call(Recipe), Console(), device_spec="cpu")

    return explain


def cells(explained, variable):
    return next(line.split()[1:] for line in explained.table if line.split()[0] == variable)


def test_a_row_tells_shape_decay_and_the_factor_in_each_stage(explained):
    found = explained(*STAGES)
    assert cells(found, "variable") == ["shape", "decay", "1", "2"]
    assert cells(found, "backbone/block0_conv/kernel") == ["3x3x3x16", ".", ".", "."]
    assert cells(found, "backbone/block1_conv/kernel") == ["3x3x16x32", "0.05", ".", "0.25"]
    assert cells(found, "backbone/block2_bn/gamma") == ["64", "0", ".", "0.5"]
    assert cells(found, "backbone/block0_bn/moving_mean") == ["16", ".", ".", "."]
    assert cells(found, "backbone/block2_bn/moving_mean") == ["64", ".", ".", "batch"]
    assert cells(found, "head/head_logits/kernel") == ["64x4", "0.05", "1", "2"]
    assert len(found.table) == 1 + 17 and max(map(len, found.table)) <= 80


def test_rows_tell_the_length_the_rates_and_the_input_of_each_stage(explained):
    found = explained(*STAGES, "all/stage.schedule = @cosine()", "cosine.peak = 0.5", "cosine.warmup = (2, 'steps')")
    rows, start = dict(found.rows[:9]), [name for name, _ in found.rows].index("stage 2")
    second = dict(found.rows[start:])
    assert "44 train, 5 validation, 11 test" in rows["data"] and "17 variables, 24,180 parameters" in rows["model"]
    assert second["stage 2"] == "all" and second["  steps"].startswith("3 to 9: 6 steps")
    assert second["  rate"] == "0.167 at the start, 0.5 at its peak, 0.0732 at the end"
    assert ("", "times 0.25 to 2 by variable") in found.rows[start:]
    assert second["  BatchNorm"] == "train: 2 of 3 layers use batch statistics"
    assert "24 x 24" in second["  input"]
    # Kernels of two blocks and the head, scales and offsets; of block 0 nothing, and no statistics.
    assert ("", f"8 variables, {3 * 3 * 16 * 32 + 3 * 3 * 32 * 64 + 2 * 32 + 2 * 64 + 64 * 4 + 4:,} parameters; "
            f"5 with {3 * 3 * 3 * 16 + 4 * 16} stay") in found.rows[start:]  # fmt: skip


def test_weights_to_begin_with_take_the_place_of_those_of_the_recipe(small):
    launch.parse_gin([small], ["model.weights = '/nowhere/weights.h5'"])
    found = plan.explain(launch.call(Recipe), Console(), device_spec="cpu", init_from="runs/before")
    assert ("weights", "runs/before (not loaded here)") in found.rows


def test_weights_are_not_loaded_and_still_decide_about_batch_normalisation(explained):
    found = explained("model.weights = '/nowhere/weights.h5'", "all/stage.batchnorm = None")
    assert ("weights", "/nowhere/weights.h5 (not loaded here)") in found.rows
    assert ("  BatchNorm", "frozen: 0 of 3 layers use batch statistics") in found.rows
    assert cells(found, "backbone/block2_bn/gamma") == ["64", ".", ".", "."]


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("head/stage.trains = 'hedd'", ["'hedd' matches no variable", "head/stage.trains"]),
        ("all/stage.trains = ['block0_bn', '!gamma', '!beta']", ["nothing trains", "all/stage.trains"]),
        ("train.stages = [@head/stage(), @head/stage()]", ["['head', 'head']", "a gin scope of its own"]),
        ("head/stage.factors = [('backbone', 0.1)]", ["'backbone'", "head/stage.factors"]),
        ("batch_size = 0", ["train.batch_size"]),
        ("train.checkpoint_every = 'often'", ["'often'", "train.checkpoint_every"]),
        ("train.plateau = @plateau()\nsplit_by_hash.validation = 0.0", ["train.plateau", "validation"]),
    ],
)
def test_what_a_start_would_refuse_is_refused(explained, complaint, binding, told):
    with complaint(*told):
        explained(binding)


def test_the_command_needs_no_workdir_and_writes_nothing(command, photos, tmp_path):
    root = photos({f"{kind}/{index}.png": (18, 20) for kind in ("cat", "dog") for index in range(8)})
    before = sorted(tmp_path.rglob("*"))
    recipe = "--gin_file=tests/photos.gin"
    started = command("train", "--plan", recipe, f"--gin_param=data_dir = '{root}'", "--devices=cpu")
    assert started.end() == 0, started.printed
    assert "head/head_logits/kernel" in started.printed and "Traceback" not in started.printed
    assert max(map(len, started.printed.splitlines())) <= max(80, len(str(root)) + 60)
    assert sorted(tmp_path.rglob("*")) == before
    started = command("train", "--plan", recipe, f"--gin_param=data_dir = '{root}'", "--gin_param=train.windo = 2")
    assert started.end() == 2 and "did you mean window" in started.printed
