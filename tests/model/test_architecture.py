from lmpipe.model.architecture import derive_seed


def test_streams_of_random_numbers_are_apart():
    seeds = {derive_seed(seed, name) for seed in range(20) for name in ("a", "b", "0:a")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
