"""A global batch comes apart evenly on any replicas it divides over, whatever train.accumulation says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import launch
from trainer.batches import Share, share, share_of
from trainer.recipe import Recipe

COUNTS = st.integers(1, 24)


@given(COUNTS, COUNTS, COUNTS, st.booleans())
def test_parts_come_out_even_and_are_the_fewest_that_are_not_fewer_than_wanted(examples, replicas, wanted, pairs):
    least = 2 if pairs else 1
    found = share(examples * least * replicas, replicas, accumulation=wanted, pairs=pairs)
    assert found.examples == examples * least
    fitting = [parts for parts in range(1, found.examples + 1) if found.examples % (parts * least) == 0]
    assert found.parts == next((parts for parts in fitting if parts >= wanted), fitting[-1])


@pytest.mark.parametrize(
    ("replicas", "pairs", "expected"),
    [(1, False, Share(24, 4)), (2, False, Share(12, 4)), (4, False, Share(6, 6)), (8, False, Share(3, 3)),
     (2, True, Share(12, 6)), (4, True, Share(6, 3)), (12, True, Share(2, 1))],
)  # fmt: skip
def test_a_batch_of_24_in_4_parts_on_more_and_more_replicas(replicas, pairs, expected):
    assert share(24, replicas, accumulation=4, pairs=pairs) == expected


def test_a_batch_that_does_not_divide_over_the_replicas_is_refused(complaint):
    with complaint("24", "5 replicas", "batch_size = 25", "--devices"):
        share(24, 5)


def test_half_a_pair_on_each_replica_is_refused(complaint):
    with complaint("12", "4 replicas", "mixup", "multiple of 8", "batch_size = 16", "--devices"):
        share(12, 4, pairs=True)


@pytest.mark.parametrize("which", ["train.policy", "all/stage.policy"])
def test_pairs_stay_together_if_any_stage_mixes_them(small, complaint, which):
    def of(operation: str) -> Recipe:
        bindings = f"{which} = @mixed/policy()", f"mixed/policy.operations = [{operation}]"
        launch.parse_gin([small], [*bindings, "batch_size = 12", "train.accumulation = 2"])
        return launch.call(Recipe)

    assert share_of(of("@flip()"), 2) == Share(6, 2)
    assert share_of(of("(@mixup(), 0.5)"), 2) == Share(6, 3)
    assert share_of(of("@flip()"), 4) == Share(3, 3)
    with complaint("mixup"):
        share_of(of("(@mixup(), 0.5)"), 4)
