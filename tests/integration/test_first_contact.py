"""What somebody meets who types the first commands: help, codes, clean streams."""

import json
import os
import shutil
import subprocess

import models
from support import TestCase, cli, environment

COMMANDS = ["run", "plan", "methods", "inspect", "reconstruct", "clean", "version"]


class FirstContact(TestCase):
    def test_no_command(self):
        result = cli()
        self.assertEqual((result.code, result.out), (2, ""))
        self.assertIn("Usage: orthomerge COMMAND", result.err)

    def test_help(self):
        for arguments in (["--help"], ["-h"], ["help"]):
            result = cli(*arguments)
            self.assertEqual((result.code, result.err), (0, ""), arguments)
            for word in COMMANDS + ["Examples:", "completion"]:
                self.assertIn(word, result.out)

    def test_help_of_commands(self):
        for command in COMMANDS:
            for arguments in ([command, "--help"], [command, "-h"], ["help", command]):
                with self.subTest(" ".join(arguments)):
                    result = cli(*arguments)
                    self.assertEqual((result.code, result.err), (0, ""), str(result))
                    self.assertIn(f"orthomerge {command}", result.out)
                    self.assertIn("Examples:", result.out)
        run = cli("run", "--help").out
        for option in ("--out", "--threads", "--memory-budget", "--chunk-size", "--device", "--seed", "--quiet"):
            self.assertIn(option, run)

    def test_unknown_command(self):
        result = cli("mrege")
        self.assertEqual((result.code, result.out), (2, ""))
        self.assertIn("unknown command 'mrege'", result.err)
        self.assertIn("did you mean 'inspect'?", cli("inspcet").err)
        self.assertIn("did you mean 'plan'?", cli("plna").err)
        as_json = cli("mrege", "-o", "json")
        self.refused(as_json, "USAGE", 2, "mrege")

    def test_missing_arguments(self):
        for command in ("run", "plan", "inspect", "clean"):
            result = cli(command, "-o", "json")
            self.refused(result, "USAGE", 2, f"orthomerge {command} --help")

    def test_version(self):
        result = cli("version")
        self.assertEqual((result.code, result.err), (0, ""))
        self.assertRegex(result.out, r"^orthomerged? \d+\.\d+\.\d+")
        self.assertEqual(cli("--version").out.split()[1], cli("version", "-o", "json").json["version"])

    def test_methods(self):
        table = cli("methods")
        self.assertEqual((table.code, table.err), (0, ""))
        names = {method["name"] for method in cli("methods", "-o", "json").json["methods"]}
        for name in ("awd", "ties", "average", "iso_c", "task_arithmetic", "mergekit.linear"):
            self.assertIn(name, names)
            self.assertIn(name, table.out)
        one = cli("methods", "awd")
        for word in ("alpha", "beta", "iters", "lambda", "granularity", "scale", "0.3", "arXiv"):
            self.assertIn(word, one.out)
        unknown = cli("methods", "tise", "-o", "json")
        self.refused(unknown, "UNKNOWN_METHOD", 2, "'tise'", "did you mean 'ties'?")

    def test_inspect(self):
        folder = os.path.join(self.world.family("large"), "base")
        table = cli("inspect", folder)
        self.assertEqual((table.code, table.err), (0, ""))
        for word in ("embed.weight", "BF16", "[4099, 1031]", "model-00001-of-00002.safetensors"):
            self.assertIn(word, table.out)
        result = cli("inspect", folder, "-o", "json").json
        self.assertEqual(result["tensor_count"], len(models.LARGE))
        shapes = {tensor["name"]: (tensor["dtype"], tuple(tensor["shape"])) for tensor in result["tensors"]}
        self.assertEqual(shapes, {name: (dtype, shape) for name, dtype, shape in models.LARGE})
        uri = self.world.family_uri("large") + "/base"
        remote = cli("inspect", uri, "-o", "json").json
        self.assertEqual([tensor["bytes"] for tensor in remote["tensors"]],
                         [tensor["bytes"] for tensor in result["tensors"]])
        missing = cli("inspect", os.path.join(self.folder, "none"), "-o", "json")
        self.refused(missing, "INPUT_NOT_FOUND", 3, "none")

    def test_plan(self):
        recipe = self.recipe("awd_ties", self.world.family("large"), shard="9MB")
        table = cli("plan", recipe)
        self.assertEqual((table.code, table.err), (0, ""), str(table))
        self.assertIn("ties", table.out)
        result = cli("plan", recipe, "-o", "json")
        self.assertEqual((result.code, len(result.out.splitlines())), (0, 1), str(result))
        self.assertTrue(result.json["ok"])
        place = self.local_place()
        cli("plan", recipe, "--out", place.uri)
        self.assert_nothing_at(place)
        fault = cli("plan", self.recipe("ties", self.world.family("large"), base="none"), "-o", "json")
        self.refused(fault, "INPUT_NOT_FOUND", 3, "none")

    def test_run_streams(self):
        """Progress on standard error, the report on standard output, nothing there with --quiet."""
        recipe = self.recipe("awd", self.world.family("large"))
        plain = cli("run", recipe, "--out", self.local_place("plain").uri)
        self.assertEqual(plain.code, 0, str(plain))
        # How many lines there are depends on the machine.
        self.assertRegex(plain.err, r"(?m)^(reduce 1/1|write|publish): .* of .* \(\d+%\)")
        self.assertNotIn("\r", plain.err)
        self.assertNotIn("\x1b", plain.err)
        self.assertNotIn("%)", plain.out)
        self.assertIn(self.local_place("plain").path, plain.out)
        quiet = cli("run", recipe, "--out", self.local_place("quiet").uri, "--quiet")
        self.assertEqual((quiet.code, quiet.out), (0, ""), str(quiet))
        self.assertNotIn("%)", quiet.err)

    def test_run_json(self):
        recipe = self.recipe("awd", self.world.family("large"), shard="9MB")
        place = self.local_place()
        result = self.run_ok(recipe, "--out", place.uri)
        self.assertEqual(len(result.out.splitlines()), 1, "standard output should hold the result alone")
        value = result.json
        self.assertEqual(value["output"].removeprefix("file://"), place.path)
        for file in value["files"]:
            self.assertEqual(os.path.getsize(os.path.join(place.path, file["name"])), file["size"])
            self.assertRegex(file["digest"], r"^xxh3-parts:[0-9a-f]{16}$")
        self.assertEqual([stage["name"] for stage in value["stages"]], ["reduce 1/1", "write", "publish"])
        self.assertGreater(value["seconds"], 0)
        self.assertGreater(value["peak_rss"], 1 << 20)
        self.assertRegex(value["plan_digest"], r"^[0-9a-f]{64}$")
        self.assertEqual(value["report"], json.loads(place.read("report.json")))
        provenance = json.loads(place.read("orthomerge.json"))
        self.assertEqual(provenance["plan_digest"], value["plan_digest"])
        self.assertEqual({entry["uri"].rsplit("/", 2)[1] for entry in provenance["inputs"]}, {"base", "m1", "m2"})

    def test_recipe_from_standard_input(self):
        inputs, place = self.world.family("small"), self.local_place()
        text = f"method: average\nmodels: [{inputs}/m1, {inputs}/m2]\n"
        result = subprocess.run([self.world.cli, "run", "-", "--out", place.uri, "-o", "json"], input=text, text=True,
                                capture_output=True, env=environment(), timeout=60, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        bad = subprocess.run([self.world.cli, "run", "-", "--out", place.uri, "-o", "json"], input="method: [",
                             text=True, capture_output=True, env=environment(), timeout=60, check=False)
        self.assertEqual(json.loads(bad.stdout)["error"]["reason"], "RECIPE_SYNTAX")
        self.assertIn("<stdin>", bad.stderr)

    def test_closed_standard_output(self):
        """A reader that goes away is no reason to crash or to lose the merge."""
        place = self.local_place()
        recipe = self.recipe("average", self.world.family("small"))
        process = subprocess.Popen([self.world.cli, "run", recipe, "--out", place.uri, "-o", "json"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
        process.stdout.close()
        error = process.stderr.read()
        process.stderr.close()
        self.assertGreaterEqual(process.wait(60), 0, error)
        self.assertIn("model.safetensors", place.names())
        self.assertEqual(place.debris(), [])

    def test_client_alone(self):
        """Without orthomerged beside it, the client says what is missing."""
        alone = os.path.join(self.folder, "alone")
        os.makedirs(alone)
        program = shutil.copy(self.world.cli, alone)
        env = {"PATH": "/nonexistent"}
        self.assertEqual(cli("--help", program=program, env=env).code, 0)
        self.assertEqual(cli("--version", program=program, env=env).code, 0)
        result = cli("run", "x.yaml", "-o", "json", program=program, env=env)
        self.refused(result, "INTERNAL", 1, "orthomerged")

    def test_completion(self):
        for shell in ("bash", "zsh"):
            result = cli("completion", shell)
            self.assertEqual((result.code, result.err), (0, ""))
            self.assertIn("orthomerge", result.out)
        script = cli("completion", "bash").out
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))
