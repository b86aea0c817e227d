"""Sweeps: many models from one read, all or none visible, resumed after a kill, also as a job."""

import json
import os
import signal

import proxy
from gate import Gate
from service import ServiceCase
from support import bytes_of, cli, finish, start

SWEEP = """method: ties
base: {inputs}/base
models: [{inputs}/m1, {inputs}/m2]
sweep: {{lambda: [0.3, 1.0], density: [0.6, 0.2]}}
output: {{max_shard_size: 9MB}}
"""
NAMES = [f"density={density},lambda={scale}" for density in (0.6, 0.2) for scale in (0.3, 1.0)]


class Sweep(ServiceCase):
    def alone(self, inputs, density, scale):
        place = self.local_place(f"alone-{density}-{scale}")
        text = SWEEP.format(inputs=inputs).splitlines()
        text[3] = f"parameters: {{density: {density}, lambda: {scale}}}"
        self.run_ok(self.write("\n".join(text)), "--out", place.uri)
        return place

    def check(self, place, inputs):
        """Two of the variants against recipes of their own."""
        for density, scale in ((0.2, 1.0), (0.6, 0.3)):
            alone = self.alone(inputs, density, scale)
            for name in alone.names():
                if name in ("report.json", "orthomerge.json"):
                    continue
                self.assertEqual(place.read(f"variants/density={density},lambda={scale}/{name}"), alone.read(name), name)
        listed = [one["name"] for one in json.loads(place.read("variants.json"))["variants"]]
        self.assertEqual(listed, NAMES)
        self.assertEqual(place.debris(), [])

    def test_killed_on_s3(self):
        inputs = self.world.family("large")
        recipe = self.write(SWEEP.format(inputs=inputs))
        place, whole = self.s3_place(), self.local_place("whole")
        self.run_ok(recipe, "--out", whole.uri)
        gate = Gate()
        front = self.enterContext(proxy.Proxy(os.environ["AWS_ENDPOINT_URL"], gate))
        self.addCleanup(gate.open, proxy.RESET)
        # While parts are written, and while files are published.
        for held in (lambda request: request.kind == "part" and place.has_results(),
                     lambda request: request.key.endswith("variants.json")):
            gate.close(held)
            process = start("run", recipe, "--out", place.uri, "-o", "json", env={"AWS_ENDPOINT_URL": front.url})
            self.addCleanup(self._end, process)
            self.assertTrue(self.wait_for(lambda: gate.held > 0, process))
            process.send_signal(signal.SIGKILL)
            finish(process)
            gate.open(proxy.RESET)
            self.assertNotIn("variants.json", place.names())
        result = self.run_ok(recipe, "--out", place.uri)
        self.assertTrue(result.json["resumed"])
        self.assertEqual(bytes_of(place), bytes_of(whole))
        self.check(place, inputs)
        self.assertTrue(self.run_ok(recipe, "--out", place.uri).json["already_complete"])

    def test_a_job(self):
        place, _ = self.run_as_job(SWEEP.format(inputs=self.small()))
        self.check(place, self.small())

    def test_refused(self):
        text = SWEEP.format(inputs=self.world.family("small")).replace("0.2", "-0.2")
        result = cli("run", self.write(text), "--out", self.local_place().uri, "-o", "json")
        self.refused(result, "OUT_OF_RANGE", 2, "sweep.density[1]", "-0.2")
        self.assertEqual(self.local_place().names(), [])
