"""The recipes of `examples/mergekit`, merged by both programs."""

import os
import subprocess
import sys

import pytest
import stand_in

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "mergekit")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("models"))
    subprocess.run([sys.executable, os.path.join(EXAMPLES, "make_models.py"), folder], check=True)
    return folder


@pytest.mark.parametrize("recipe", sorted(name for name in os.listdir(EXAMPLES) if name.endswith(".yml")))
def test_example(recipe, models, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    stand_in.run_recipe(os.path.join(EXAMPLES, recipe), tmp_path / "merged")
