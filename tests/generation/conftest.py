import pytest

from lmpipe.generation.export import export
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return a study with a trained run, and its exports in both formats."""
    study = make_tiny_study(tmp_path_factory.mktemp("export") / "results")
    shape = {"context_length": 24, "d_model": 24, "d_ff": 40, "num_heads": 2, "rope_theta": 500.0}
    train(tiny_run(model=shape), study, study / "run")
    export(study / "run", study / "huggingface")
    export(study / "run", study / "gguf", "gguf")
    return study
