"""Entry point: see `run`."""

import argparse
import importlib
import os
import random
import signal
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = ["test_first_contact", "test_same_bytes", "test_examples", "test_bad_inputs", "test_bad_storage",
           "test_outputs", "test_adapters", "test_disk_full", "test_storage_faults", "test_signals", "test_kill",
           "test_stages", "test_sweep",
           "test_service_start", "test_service_clients", "test_service_errors", "test_service_watch", "test_service_queue",
           "test_service_drain", "test_service_hang", "test_service_cli", "test_service_kill"]


def fail(text):
    print(f"tests/integration/run: {text}", file=sys.stderr)
    sys.exit(1)


class Lines(unittest.TestResult):
    """A line for each test as it ends; everything about a failure on standard error."""

    def __init__(self):
        super().__init__()
        self.passed = self.failed = 0
        self._faults, self._started = [], 0.0

    def startTest(self, test):
        super().startTest(test)
        self._faults, self._started = [], time.monotonic()

    @staticmethod
    def _name(test):
        return test.id().replace("test_", "", 1)

    def _fault(self, test, error):
        text = "".join(str(error[1]).strip().splitlines(True)[:1]).strip() or error[0].__name__
        parameters = getattr(test, "_subDescription", lambda: "")()
        self._faults.append(f"{parameters} {text}".strip())
        print(f"--- {self._name(test)}\n{self._exc_info_to_string(error, test)}", file=sys.stderr, flush=True)

    def addError(self, test, err):
        self._fault(test, err)

    def addFailure(self, test, err):
        self._fault(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fault(subtest, err)

    def addSkip(self, test, reason):
        self._faults.append(f"skipped: {reason}")

    def stopTest(self, test):
        super().stopTest(test)
        seconds = time.monotonic() - self._started
        if self._faults:
            self.failed += 1
            more = f" (and {len(self._faults) - 1} more)" if len(self._faults) > 1 else ""
            print(f"FAIL {self._name(test)}: {self._faults[0]}{more} ({seconds:.1f} s)", flush=True)
        else:
            self.passed += 1
            print(f"PASS {self._name(test)} ({seconds:.1f} s)", flush=True)


def tests_of(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from tests_of(entry)
        else:
            yield entry


def main():
    parser = argparse.ArgumentParser(prog="tests/integration/run")
    parser.add_argument("bin", nargs="?", default=os.path.join(HERE, "..", "..", "build", "bin"),
                        help="folder of orthomerge and orthomerged (default: build/bin)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tests whose name contains TEXT")
    parser.add_argument("--rounds", type=int, default=0, metavar="N",
                        help="rounds of killed runs, local and on S3 each (default: 12 and 8), and kills of the "
                             "server (25); makes its watchers and queue long, too")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed of the random moments")
    options = parser.parse_args()
    # So that a terminated run still tidies up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    for name in ("orthomerge", "orthomerged"):
        if not os.access(os.path.join(options.bin, name), os.X_OK):
            fail(f"{os.path.join(options.bin, name)} is not there; build first with ./scripts/build")
    if not os.environ.get("ORTHOMERGE_TEST_BUCKET"):
        fail("ORTHOMERGE_TEST_BUCKET is not set; these tests need an S3 server: "
             "scripts/with-s3 tests/integration/run BIN")
    for module, package in (("numpy", "python3-numpy"), ("grpc", "python3-grpcio"),
                            ("google.protobuf", "python3-protobuf")):
        try:
            importlib.import_module(module)
        except ImportError:
            fail(f"{sys.executable} has no {module}; install {package}")

    sys.path.insert(0, HERE)
    import service
    import support
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    support.WORLD = support.World(options.bin, options.rounds, seed)
    support.WORLD.stubs = service.make_stubs(support.WORLD.folder)
    print(f"seed {seed}", flush=True)
    result = Lines()
    try:
        for module in MODULES:
            suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(module))
            for test in tests_of(suite):
                if options.only in test.id():
                    test.run(result)
    finally:
        support.WORLD.close()
    print(f"{result.passed} passed, {result.failed} failed", flush=True)
    return 0 if result.failed == 0 and result.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
