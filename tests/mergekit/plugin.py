"""A pytest plugin under which mergekit's own tests judge orthomerge: see `README.md`."""

import importlib.util
import inspect
import json
import os
import sys

import pytest
import stand_in

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "not_passing.json"), encoding="utf-8") as _file:
    NOT_PASSING = {test: why for why, tests in json.load(_file).items() for test in tests}


def pytest_configure(config):
    stand_in.install()
    # The package with the tests lacks this module of theirs.
    spec = importlib.util.spec_from_file_location("tests.common", os.path.join(HERE, "common.py"))
    sys.modules["tests.common"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["tests.common"])
    config.pluginmanager.register(Lines(), "orthomerge-lines")


def _merges_on_disk(item):
    source = inspect.getsource(item.function)
    return any(name + "(" in source for name in ("run_merge", "run_and_check_merge", "run_recipe"))


def _name(item):
    return item.nodeid.split("/")[-1]


class Lines:
    """A line for each test, and `N passed, N failed`. Tests of mergekit's insides say nothing about orthomerge."""

    def __init__(self):
        self.passed = self.failed = self.internal = 0
        self.unseen, self.faults = set(NOT_PASSING), []

    def pytest_collection_modifyitems(self, config, items):
        internal = [item for item in items if not _merges_on_disk(item)]
        self.internal = len(internal)
        config.hook.pytest_deselected(items=internal)
        items[:] = [item for item in items if _merges_on_disk(item)]

    def pytest_collectreport(self, report):
        if report.failed:
            self._fail(report.nodeid, "cannot be imported")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.faults = []
        yield
        self._judge(_name(item))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        yield
        if call.excinfo is not None:
            self.faults.append(call.excinfo)

    def _judge(self, name):
        self.unseen.discard(name)
        fault = self.faults[0].exconly().splitlines()[0][:400] if self.faults else None
        if name in NOT_PASSING and fault:
            print(f"\nKNOWN {name}: {NOT_PASSING[name]}\n      {fault}")
        elif name in NOT_PASSING:
            self._fail(name, "passes; take it out of tests/mergekit/not_passing.json")
        elif fault:
            self._fail(name, fault)
        else:
            self.passed += 1
            print(f"\nPASS {name}")

    def _fail(self, name, text):
        self.failed += 1
        print(f"\nFAIL {name}: {text}")

    def pytest_sessionfinish(self, session):
        if not session.config.option.keyword:
            for name in sorted(self.unseen):
                self._fail(name, "is in tests/mergekit/not_passing.json, but there is no such test")

    def pytest_unconfigure(self):
        print(f"\n{self.internal} tests of mergekit's insides left out")
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
