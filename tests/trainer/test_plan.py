"""What `--plan` tells is what a session would do."""

import pytest

from trainer import launch, plan, probing
from trainer.recipe import Recipe
from trainer.reports.console import Console

STAGES = (
    "all/stage.trains = ['head', 'from block1']", "all/stage.factors = [('head', 2.0)]",
    "all/stage.layer_decay = 0.5", "all/stage.image_size = 24",
    "train.optimizer = @adamw()", "adamw.weight_decay = 0.05",
)  # fmt: skip

GIVEN = (
    "scaling.step_seconds = {2: 0.004, 8: 0.010}", "scaling.decode_rate = 1600.0", "scaling.store_rate = None",
    "scaling.gpus_per_host = 4", "scaling.within_latency = 0", "scaling.between_latency = 0",
    "scaling.within_bandwidth = 1e7", "scaling.between_bandwidth = 1e7",
)  # fmt: skip
MANY = "configs/scaling.gin"


@pytest.fixture
def explained(small):
    def explain(*bindings, behind=(), recipe=small):
        launch.parse_gin([recipe, *behind], bindings)
        return plan.explain(launch.call(Recipe), Console(), device_spec="cpu")

    return explain


@pytest.fixture
def hurried(monkeypatch):
    """As few measurements as can be."""
    for name, least in {"CALLS": 1, "LEAD": 1, "STEPS": 1, "WARM": 0.0, "WATCHED": 0.0, "BATCHES": 1}.items():
        monkeypatch.setattr(probing, name, least)


def predicted(explained):
    """[weak, strong]: the cells of each row, by the number of GPUs."""
    tables = []
    for line in explained.scaling:
        if "scaling:" in line:
            tables.append({})
        elif line.startswith("│"):
            gpus, *others = (cell.strip() for cell in line.strip("│").split("│"))
            # A second line of a row goes on with its last cell.
            if gpus:
                tables[-1][int(gpus)] = others
            else:
                tables[-1][max(tables[-1])][-1] += f"; {others[-1]}"
    return tables


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


def test_many_gpus_are_told_of_with_what_is_given_and_nothing_is_measured(explained, monkeypatch):
    for name in ("sample", "timed"):
        monkeypatch.setattr(probing, name, None)
    found = explained(*GIVEN, behind=[MANY])
    rows = dict(found.rows)
    # Two batches lie on the line of 2 ms and 1 ms an example.
    assert rows["  step"] == "2 ms + 1 ms an example (given)" and "0.0958 MB a step in one part" in rows["  reduction"]
    assert "not validated on GPUs" in rows["many GPUs"] and rows["  its input"] == "images/s: 1,600 from files (given)"
    weak, strong = predicted(found)
    assert list(weak) == [2**power for power in range(10)] and list(strong) == [1, 2, 4, 8]
    assert weak[1] == ["1", "8", "10.0", "800", "100%", "compute 100%", "batch x 4: 941"]
    # .0958 MB over 10 MB/s, once; of four GPUs three halves of that, and the input of 32 images takes 20 ms.
    assert weak[2] == ["1", "16", "19.6", "817", "51%", "compute 51%", "batch x 8: 1,600"]
    assert weak[4][:5] == ["1", "32", "24.4", "1,313", "41%"] and weak[4][5] == "reduction 59%"
    assert strong[8][:2] == ["2", "8"]
    assert max(map(len, found.scaling)) <= 120


def test_gradients_in_parts_pay_for_the_latency_of_each(explained):
    slow = ("scaling.within_latency = 0.001", "train.reduction_bytes = 40000")
    found = explained(*GIVEN, *slow, behind=[MANY])
    assert "0.0958 MB a step in 3 parts" in dict(found.rows)["  reduction"]
    # 19.6 ms, and 2 ms for each part and for the weight of the batch.
    assert predicted(found)[0][2][2] == "27.6"


def test_what_is_not_given_is_measured_on_the_first_device(small, hurried):
    launch.parse_gin([small, MANY], ["scaling.cores_per_host = 64"])
    found = plan.explain(launch.call(Recipe), Console(), device_spec="cpu:2")
    rows, (weak, strong) = dict(found.rows), predicted(found)
    assert "measured on CPU:0" in rows["  step"] and "from files (measured here)" in rows["  its input"]
    assert "64 cores" in rows["  a host"] and "from a store" not in rows["  its input"]
    # Two replicas have four examples each, and all together eight.
    assert weak[512][:2] == ["64", "2,048"] and [each[1] for each in strong.values()] == ["8"] * 4


def test_a_recipe_that_keeps_a_store_is_fed_from_it_and_one_without_is_told_of_it(explained, photos, hurried):
    root = photos({f"{kind}/{index}.png": (18, 20) for kind in ("cat", "dog") for index in range(8)})
    here = (f"data_dir = '{root}'", *GIVEN[:1], "scaling.decode_rate = 10.0", "scaling.store_rate = 'probe'")
    how = {"behind": [MANY], "recipe": "tests/photos.gin"}
    kept = explained(*here, **how)
    assert "10 from files (given), " in dict(kept.rows)["  its input"]
    assert dict(kept.rows)["  its input"].endswith("from a store (measured here)")
    files = explained(*here, "train.store = None", **how)
    weak = predicted(files)[0]
    assert weak[1][3] == "10" and "packed store: " in weak[1][-1] and "80 data workers" in weak[1][-1]
    assert "packed store" not in str(predicted(kept))


@pytest.mark.parametrize(
    ("bindings", "told"),
    [
        (["plan.scaling = 8"], ["plan.scaling = 8", "configs/scaling.gin"]),
        (["scaling.within_bandwidth = 'probe'"], ["on 0 GPUs", "scaling.within_bandwidth"]),
        (["train.features = @features()"], ["scaling.step_seconds", "stored features"]),
    ],
)
def test_a_prediction_that_cannot_be_made_is_refused(explained, complaint, bindings, told):
    with complaint(*told):
        explained(*bindings, "train.stages = [@head/stage()]", behind=[MANY])


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
