"""Objects and names, beside each other: the same features, and what was measured."""

from benchmarks import objects


def test_objects_and_names_give_the_same_features(tmp_path):
    found = objects.measure("test_resnet", 32, 12, 2, tmp_path)
    assert len(found["ratios"]) == 2
    assert min(found["ratios"]) > 0
