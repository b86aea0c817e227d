"""What the tests share: the program, the models, places for outputs, and what may lie there."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import models
from s3 import S3

# Not part of byte identity: they tell seconds, paths and pinned versions.
REPORTS = {"report.json", "orthomerge.json"}
COMMITS = ("model.safetensors", "model.safetensors.index.json")

METHODS = {
    # Relative, because with raw norms of such models AWD has nothing to do.
    "awd": "method: awd\nparameters: {scale: relative}\n",
    "ties": "method: ties\nparameters: {density: 0.3}\n",
    "average": "method: average\n",
    "awd_ties": "method: ties\nparameters: {density: 0.25}\n"
                "transform: [{method: awd, parameters: {scale: relative}}]\n",
    "iso_c": "method: iso_c\n",
}


class World:
    """Everything made once per run of the tests."""

    def __init__(self, bin_folder, rounds, seed):
        self.bin = os.path.abspath(bin_folder)
        self.cli = os.path.join(self.bin, "orthomerge")
        self.server = os.path.join(self.bin, "orthomerged")
        self.rounds, self.seed = rounds, seed
        self.folder = tempfile.mkdtemp(prefix="orthomerge-integration.")
        os.chmod(self.folder, 0o755)
        self.s3 = S3(os.environ["ORTHOMERGE_TEST_BUCKET"])
        self._families, self._references = {}, {}
        self._uploaded = set()

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def family(self, name):
        """Folder with base, m1, m2, m3: "large" (42 MiB each, base and models in two shards) or "small"."""
        if name not in self._families:
            folder = os.path.join(self.folder, "inputs", name)
            if name == "large":
                models.make_family(folder, models.LARGE, 3, shards=2)
            else:
                models.make_family(folder, models.SMALL, 3)
            self._families[name] = folder
        return self._families[name]

    def reference(self, test, method, family, shard, models_used):
        """Digests of what a run in one process writes from these inputs, computed once."""
        key = (method, family, shard, models_used)
        if key not in self._references:
            place = LocalPlace(os.path.join(self.folder, "references", str(len(self._references))))
            recipe = test.recipe(method, self.family(family), shard=shard, models_used=models_used)
            test.run_ok(recipe, "--out", place.uri)
            self._references[key] = bytes_of(place)
        return self._references[key]

    def family_uri(self, name):
        """The same in the bucket."""
        folder = self.family(name)
        if name not in self._uploaded:
            for model in sorted(os.listdir(folder)):
                self.s3.put_folder(os.path.join(folder, model), f"inputs/{name}/{model}")
            self._uploaded.add(name)
        return f"s3://{self.s3.bucket}/inputs/{name}"


WORLD: World = None


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        lines = self.out.splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            raise AssertionError(f"no JSON result: exit {self.code}, stdout {self.out[-300:]!r}, "
                                 f"stderr {self.err[-600:]!r}") from None

    @property
    def reason(self):
        return self.json.get("error", {}).get("reason")

    @property
    def message(self):
        return self.json.get("error", {}).get("message")

    def __str__(self):
        return f"exit {self.code}\n--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-3000:]}"


def environment(changes=None):
    env = dict(os.environ)
    for name, value in (changes or {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def start(*arguments, env=None, program=None, **options):
    return subprocess.Popen([program or WORLD.cli, *arguments], env=environment(env), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **options)


def finish(process, timeout=180):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s; stderr: {err[-600:]!r}") from None
    return Result(process.returncode, out, err)


def cli(*arguments, **options):
    timeout = options.pop("timeout", 180)
    return finish(start(*arguments, **options), timeout)


class LocalPlace:
    """An output `out` in a folder of its own; whatever else lies in that folder is debris."""

    def __init__(self, folder, name="out"):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.name = folder, name
        self.path = self.uri = os.path.join(folder, name)

    def names(self):
        found = []
        for root, _, files in os.walk(self.path):
            found += [os.path.relpath(os.path.join(root, name), self.path) for name in files]
        return sorted(found)

    def read(self, name):
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def exists(self):
        return os.path.lexists(self.path)

    def debris(self):
        beside = [name for name in os.listdir(self.folder) if name != self.name]
        return sorted(beside + [name for name in self.names() if os.path.basename(name).startswith(".")])

    def has_results(self):
        """Whether a run in progress has stored the result of a task."""
        for area in os.listdir(self.folder):
            if area.startswith("." + self.name + ".orthomerge-"):
                for root, _, files in os.walk(os.path.join(self.folder, area)):
                    if not root.endswith("/uploads") and any(name.isdigit() for name in files):
                        return True
        return False

    def is_publishing(self):
        """Whether the first file has its final name, in the output or in the folder that becomes it."""
        folders = [os.path.join(self.folder, area, "staging") for area in os.listdir(self.folder)
                   if area.startswith(f".{self.name}.orthomerge-")]
        return any(os.path.exists(os.path.join(folder, "config.json")) for folder in [self.path, *folders])


class S3Place:
    def __init__(self, prefix, name="out"):
        self.s3, self.prefix, self.name = WORLD.s3, prefix, name
        self.key = f"{prefix}/{name}"
        self.uri = f"s3://{self.s3.bucket}/{self.key}"

    def names(self):
        return [key[len(self.key) + 1:] for key in self.s3.list(self.key + "/")]

    def read(self, name):
        return self.s3.get(f"{self.key}/{name}")

    def exists(self):
        return bool(self.names())

    def debris(self):
        beside = [key for key in self.s3.list(self.prefix + "/") if not key.startswith(self.key + "/")]
        return beside + [f"upload of {key}" for key, _ in self.s3.uploads(self.prefix + "/")]

    def has_results(self):
        return any(key.rsplit("/", 1)[-1].isdigit() and "/uploads/" not in key
                   for key in self.s3.list(f"{self.prefix}/.{self.name}.orthomerge-"))

    def is_publishing(self):
        return bool(self.s3.list(f"{self.key}/config.json"))


def bytes_of(place):
    """Digests of the files that byte identity covers."""
    return {name: hashlib.sha256(place.read(name)).hexdigest() for name in place.names() if name not in REPORTS}


def commit_of(place):
    names = place.names()
    return next((name for name in COMMITS if name in names), None)


class TestCase(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        self.world = WORLD
        self.s3 = WORLD.s3
        self.key = self.id().split(".", 1)[1].replace(".", "-")
        self.folder = os.path.join(WORLD.folder, self.key)
        os.makedirs(self.folder, exist_ok=True)
        self._recipes = 0
        self.addCleanup(self._tidy)

    def _tidy(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.s3.remove(self.key + "/")

    def local_place(self, name="out"):
        return LocalPlace(os.path.join(self.folder, "outputs"), name)

    def s3_place(self, name="out"):
        return S3Place(self.key, name)

    def write(self, text, name=None):
        self._recipes += 1
        path = os.path.join(self.folder, name or f"recipe{self._recipes}.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def recipe(self, method, inputs, out=None, models_used=("m1", "m2"), shard=None, base="base", name=None):
        """A recipe file; `method` is a key of METHODS or the first lines of a recipe."""
        text = METHODS.get(method, method)
        if base:
            text += f"base: {inputs}/{base}\n"
        text += "models:\n" + "".join(f"  - {inputs}/{model}\n" for model in models_used)
        output = [f"uri: {out}"] if out else []
        if shard:
            output.append(f"max_shard_size: {shard}")
        if output:
            text += "output: {" + ", ".join(output) + "}\n"
        return self.write(text, name)

    def run_ok(self, *arguments, **options):
        result = cli("run", *arguments, "-o", "json", **options)
        self.assertEqual(result.code, 0, str(result))
        self.assertTrue(result.json["ok"], str(result))
        return result

    def refused(self, result, reason, code, *texts):
        """A failure as it ought to be: reason, exit code, JSON and message agree, and the message names `texts`."""
        self.assertEqual((result.reason, result.code), (reason, code), str(result))
        self.assertEqual(result.json["exit_code"], code)
        self.assertFalse(result.json["ok"])
        self.assertNotIn("orthomerge::", result.err)
        for text in texts:
            self.assertIn(text, result.err, "standard error should say this")
            self.assertIn(text, result.message + json.dumps(result.json["diagnostics"], ensure_ascii=False),
                          "the JSON should say this")

    def assert_nothing_at(self, place):
        self.assertFalse(place.exists(), f"left at the output: {place.names()}")
        self.assertEqual(place.debris(), [], "left beside the output")

    def assert_complete(self, place, reference):
        self.assertEqual(bytes_of(place), reference)
        names = place.names()
        for name in REPORTS:
            self.assertIn(name, names)
        self.assertEqual(place.debris(), [], "debris")

    def wait_for(self, condition, process=None, seconds=60):
        """Polls; with `process`, false when that ends first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            if process is not None and process.poll() is not None:
                return False
            time.sleep(0.002)
        self.fail("waited in vain")

    def stop_when(self, condition, *arguments, **options):
        """Starts a run and halts it (SIGSTOP) as soon as `condition` holds; null if it ended before."""
        process = start("run", *arguments, "-o", "json", **options)
        self.addCleanup(self._end, process)
        if not self.wait_for(condition, process):
            finish(process)
            return None
        process.send_signal(signal.SIGSTOP)
        return process

    @staticmethod
    def _end(process):
        if process.poll() is None:
            process.kill()
        for stream in (process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        process.wait()
