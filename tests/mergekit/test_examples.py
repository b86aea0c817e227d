"""The recipes of `examples/mergekit`, merged by both programs."""

import os
import subprocess
import sys

import mergekit.merge
import pytest
import yaml
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "mergekit")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("models"))
    subprocess.run([sys.executable, os.path.join(EXAMPLES, "make_models.py"), folder], check=True)
    return folder


@pytest.mark.parametrize("recipe", sorted(name for name in os.listdir(EXAMPLES) if name.endswith(".yml")))
def test_example(recipe, models, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    with open(os.path.join(EXAMPLES, recipe), encoding="utf-8") as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    mergekit.merge.run_merge(config, str(tmp_path / "merged"), MergeOptions())
