"""Recipes of one file: the bytes of one after the other, and a kill costs no more than the recipe it hits."""

import json
import os
import signal

import proxy
from gate import Gate, writes
from service import ServiceCase
from support import bytes_of, cli, finish, start

# The first is written as float16; the second takes two passes over what the first made.
STAGES = """name: first
method: ties
base: {inputs}/base
models: [{inputs}/m1, {inputs}/m2]
parameters: {{density: 0.3}}
output: {{dtype: float16, max_shard_size: 9MB}}
---
name: second
method: awd
base: {inputs}/base
models: [first, {inputs}/m3]
parameters: {{scale: relative}}
---
merge_method: slerp
base_model: first
models: [{{model: first}}, {{model: second}}]
parameters: {{t: 0.25}}
dtype: float32
out_dtype: bfloat16
"""


class Stages(ServiceCase):
    def by_hand(self, inputs):
        """What three commands write, each reading what those before it wrote."""
        places = {name: self.local_place(f"by-hand-{name}") for name in ("first", "second", "last")}
        texts = STAGES.format(inputs=inputs).split("---\n")
        for name, text in zip(places, texts):
            text = text.replace(f"name: {name}\n", "")
            for other in ("first", "second"):
                for before, after in ((f"[{other},", "[{},"), (f"model: {other}}}", "model: {}}}"),
                                      (f"base_model: {other}\n", "base_model: {}\n")):
                    text = text.replace(before, after.format(places[other].uri))
            self.run_ok(self.write(text), "--out", places[name].uri)
        return bytes_of(places["last"])

    def made(self, result):
        return [stage["name"] for stage in result.json["stages"]]

    def test_kill_in_the_second_local(self):
        reference = self.by_hand(self.world.family("large"))
        recipe = self.write(STAGES.format(inputs=self.world.family("large")))
        place = self.local_place_at("killed")

        def first_is_complete():
            return any(os.path.exists(os.path.join(place.folder, area, "stages", "first", "model.safetensors.index.json"))
                       for area in os.listdir(place.folder) if area.startswith(".out.orthomerge-"))
        process = self.stop_when(first_is_complete, recipe, "--out", place.uri)
        self.assertIsNotNone(process, "the run was faster than the test")
        process.send_signal(signal.SIGKILL)
        finish(process)
        self.assertFalse(place.exists())
        result = self.run_ok(recipe, "--out", place.uri)
        self.assertTrue(result.json["resumed"])
        self.assertEqual([name for name in self.made(result) if name.startswith("first")], [])
        self.assertIn("second: write", self.made(result))
        self.assert_complete(place, reference)

    def test_kill_in_the_second_s3(self):
        reference = self.by_hand(self.world.family("large"))
        recipe = self.write(STAGES.format(inputs=self.world.family_uri("large")))
        place = self.s3_place()
        gate, requests = Gate(), []

        def policy(request):
            requests.append(request)
            return gate(request)
        front = self.enterContext(proxy.Proxy(os.environ["AWS_ENDPOINT_URL"], policy))
        self.addCleanup(gate.open, proxy.RESET)
        gate.close(lambda request: writes(request) and "/stages/second/" in request.key)
        self.kill_at_the_gate(recipe, place, front, gate)
        self.assertFalse(place.exists())
        requests.clear()
        result = self.run_ok(recipe, "--out", place.uri, env={"AWS_ENDPOINT_URL": front.url})
        made = [request.key for request in requests if writes(request) and "/stages/first/" in request.key]
        self.assertEqual(made, [], "the first result was made again")
        self.assertEqual([name for name in self.made(result) if name.startswith("first")], [])
        self.assert_complete(place, reference)

    def kill_at_the_gate(self, recipe, place, front, gate):
        """Kills a run through the proxy as soon as the gate holds one of its requests."""
        process = start("run", recipe, "--out", place.uri, "-o", "json", env={"AWS_ENDPOINT_URL": front.url})
        self.addCleanup(self._end, process)
        self.assertTrue(self.wait_for(lambda: gate.held > 0, process))
        process.send_signal(signal.SIGKILL)
        finish(process)
        gate.open(proxy.RESET)

    def test_cancelled_and_cleaned(self):
        """`clean` removes the intermediates of a run that was given up, open uploads too."""
        recipe = self.write(STAGES.format(inputs=self.world.family_uri("large")))
        place = self.s3_place()
        gate = Gate()
        front = self.enterContext(proxy.Proxy(os.environ["AWS_ENDPOINT_URL"], gate))
        self.addCleanup(gate.open, proxy.RESET)
        gate.close(lambda request: request.kind == "part" and "/stages/second/" in request.key)
        self.kill_at_the_gate(recipe, place, front, gate)
        self.assertNotEqual(place.debris(), [])
        cleaned = cli("clean", place.uri)
        self.assertEqual(cleaned.code, 0, str(cleaned))
        self.assert_nothing_at(place)

    def test_plan(self):
        recipe = self.write(STAGES.format(inputs=self.world.family("small")))
        result = cli("plan", recipe, "--local", "-o", "json")
        self.assertEqual(result.code, 0, str(result))
        plan = result.json
        self.assertEqual([stage["name"] for stage in plan["stages"] if stage["name"].endswith("write")],
                         ["first: write", "second: write", "write"])
        spool = sum(sum(file["size"] for file in one["files"] if file["name"].endswith(".safetensors"))
                    for one in plan["intermediates"])
        self.assertEqual(plan["spool_bytes"], spool)

    def test_a_job(self):
        reference = self.by_hand(self.small())
        place, job = self.run_as_job(STAGES.format(inputs=self.small()))
        self.assert_complete(place, reference)
        self.assertIn("first: write", [stage.name for stage in job.result.stages])
        provenance = json.loads(place.read("orthomerge.json"))
        self.assertEqual([one["name"] for one in provenance["intermediates"]], ["first", "second"])

    def test_bad_graphs(self):
        def refused(text, reason, *words):
            result = cli("run", self.write(text), "--out", self.local_place().uri, "-o", "json")
            self.refused(result, reason, 2, *words)
        a, b = "method: average\nmodels: [q]\n", "method: average\nmodels: [p]\n"
        refused(f"name: p\n{a}---\nname: q\n{b}", "OUT_OF_RANGE", "'p' needs 'q' needs 'p'")
        refused(f"name: p\n{a}---\nname: p\n{a}---\n{a}", "OUT_OF_RANGE", "the name 'p' is taken already in line 1")
        refused(f"{a}---\n{a}", "MISSING_KEY", "only one may be without")
