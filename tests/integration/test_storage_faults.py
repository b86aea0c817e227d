"""A bad network between the program and its S3 server: the bytes are right in the end, or the failure is clear."""

import collections
import os
import random
import threading

import proxy as faults
from support import S3Place, TestCase, bytes_of, cli, commit_of, finish, start


class Faults(TestCase):
    def setUp(self):
        super().setUp()
        self.inputs = self.world.family_uri("large")
        self.place = self.s3_place()
        self.lock = threading.Lock()

    def reference(self, method, shard):
        place = self.local_place("reference")
        self.run_ok(self.recipe(method, self.world.family("large"), shard=shard), "--out", place.uri)
        return bytes_of(place)

    def through(self, policy):
        """A proxy in front of the server, and the environment that leads the program through it."""
        proxy = self.enterContext(faults.Proxy(os.environ["AWS_ENDPOINT_URL"], policy))
        return proxy, {"AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "30"}

    def check(self, policy, method="awd", shard=None, at_least=1, options=()):
        reference = self.reference(method, shard)
        proxy, env = self.through(policy)
        recipe = self.recipe(method, self.inputs, shard=shard)
        self.run_ok(recipe, "--out", self.place.uri, *options, env=env)
        self.assert_complete(self.place, reference)
        hit = sum(count for action, count in proxy.counts.items() if action != faults.PASS)
        self.assertGreaterEqual(hit, at_least, f"the proxy had little to do: {proxy.counts}")
        return proxy

    def at_random(self, share, actions):
        rng = random.Random(f"{self.world.seed} {self.id()}")

        def policy(request):
            with self.lock:
                if rng.random() >= share:
                    return faults.PASS
                wanted = [action for action in actions
                          if request.kind == "read" or action not in (faults.CUT_CLOSE, faults.CUT_RESET, faults.SHORT)]
                return rng.choice(wanted) if wanted else faults.PASS
        return policy

    def test_control(self):
        """Nothing fails: the proxy itself is fine."""
        self.check(lambda request: faults.PASS, at_least=0)

    def test_unavailable(self):
        """503 to three in ten requests, half of them after the server had carried the request out."""
        self.check(self.at_random(0.3, [faults.UNAVAILABLE, faults.UNAVAILABLE_AFTER]), shard="9MB", at_least=20)

    def test_connection_resets(self):
        self.check(self.at_random(0.2, [faults.RESET, faults.RESET_AFTER, faults.CUT_RESET, faults.HALF_SENT]),
                   shard="9MB", at_least=10)

    def test_truncated_bodies(self):
        self.check(self.at_random(0.3, [faults.CUT_CLOSE, faults.SHORT]), at_least=5)

    def test_everything_at_once(self):
        every = [faults.UNAVAILABLE, faults.UNAVAILABLE_AFTER, faults.RESET, faults.RESET_AFTER, faults.CUT_RESET,
                 faults.CUT_CLOSE, faults.SHORT, faults.HALF_SENT]
        self.check(self.at_random(0.25, every), method="awd_ties", shard="5MB", at_least=20)

    def lose_first(self, *kinds):
        """Every object's first answer of these kinds is lost; the server has carried the request out."""
        seen = collections.Counter()

        def policy(request):
            with self.lock:
                seen[request.kind, request.key] += 1
                if request.kind in kinds and seen[request.kind, request.key] == 1:
                    return faults.RESET_AFTER
                return faults.PASS
        return policy

    def test_lost_answers_to_complete(self):
        self.check(self.lose_first("complete"), shard="9MB", at_least=4)

    def test_lost_answers_to_put(self):
        self.check(self.lose_first("put"), shard="9MB", at_least=6)

    def test_lost_answers_to_start(self):
        """The second request starts a second upload; none may stay open."""
        self.check(self.lose_first("start upload"), shard="9MB", at_least=4)

    def test_lost_answers_to_delete(self):
        self.check(self.lose_first("delete", "abort"), shard="9MB", at_least=4)

    # Uploads that vanish.

    def vanish(self, kind, nth):
        """Before the nth request of a kind, its upload is aborted behind the program's back."""
        counts = collections.Counter()

        def policy(request):
            with self.lock:
                counts[request.kind] += 1
                now = request.kind == kind and counts[kind] == nth
            if now:
                self.s3.abort(request.key, request.query["uploadId"])
                counts["vanished"] += 1
            return faults.PASS
        return policy, counts

    def test_upload_vanishes_at_complete(self):
        policy, counts = self.vanish("complete", 2)
        self.check(policy, shard="9MB", at_least=0)
        self.assertEqual(counts["vanished"], 1)

    def test_upload_vanishes_at_a_part(self):
        policy, counts = self.vanish("part", 3)
        self.check(policy, at_least=0)
        self.assertEqual(counts["vanished"], 1)

    def test_every_upload_vanishes_between_two_runs(self):
        reference = self.reference("awd", "9MB")
        recipe = self.recipe("awd", self.inputs, shard="9MB")
        self.kill_at("complete", recipe, 2)
        uploads = self.s3.uploads(self.key)
        self.assertGreater(len(uploads), 2)
        for key, upload_id in uploads:
            self.s3.abort(key, upload_id)
        result = self.run_ok(recipe, "--out", self.place.uri)
        self.assertTrue(result.json["resumed"])
        self.assert_complete(self.place, reference)

    # Killed at a chosen request.

    def kill_at(self, kind, recipe, nth=1, carried_out=True):
        """Kills the program while the answer to the nth request of a kind is on its way."""
        count, started, process = collections.Counter(), threading.Event(), []

        def policy(request):
            with self.lock:
                count[request.kind] += 1
                hit = request.kind == kind and count[kind] == nth
            if not hit:
                return faults.PASS
            started.wait()
            if not carried_out:
                process[0].kill()
                return faults.RESET
            # The server first, then the kill: the answer is held back until the process is gone.
            return faults.RESET_AFTER

        proxy, env = self.through(policy)
        if carried_out:
            proxy.before_reset = lambda: process[0].kill()
        process.append(start("run", recipe, "--out", self.place.uri, "-o", "json", env=env))
        started.set()
        result = finish(process[0])
        self.assertEqual(result.code, -9, str(result))

    def test_killed_at_every_kind_of_request(self):
        reference = self.reference("awd", "9MB")
        for kind, nth, carried_out in [("start upload", 1, True), ("start upload", 2, True), ("part", 2, True),
                                       ("put", 1, True), ("put", 9, False), ("complete", 1, True),
                                       ("complete", 3, False), ("delete", 1, True), ("delete", 3, False)]:
            with self.subTest(f"{kind} {nth}{'' if carried_out else ', not carried out'}"):
                recipe = self.recipe("awd", self.inputs, shard="9MB")
                self.kill_at(kind, recipe, nth, carried_out)
                if commit_of(self.place) is not None:
                    self.assertEqual(bytes_of(self.place), reference)
                self.run_ok(recipe, "--out", self.place.uri)
                self.assert_complete(self.place, reference)
            self.s3.remove(self.key)

    def test_clean_after_kills(self):
        """`clean` finds uploads, too, that no record names, because the kill came between the two."""
        for kind, nth in [("start upload", 1), ("part", 2), ("complete", 2)]:
            with self.subTest(kind):
                self.kill_at(kind, self.recipe("awd", self.inputs, shard="9MB"), nth)
                self.assertEqual(cli("clean", self.place.uri).code, 0)
                self.assert_nothing_at(self.place)
            self.s3.remove(self.key)

    # Permanent failures leave nothing.

    def test_input_changed(self):
        """An object overwritten between the plan and a read of its data."""
        with open(os.path.join(self.world.family("large"), "m2", "model-00001-of-00002.safetensors"), "rb") as file:
            data = file.read()
        self.addCleanup(self.s3.put, "inputs/large/m2/model-00001-of-00002.safetensors", data)
        seen = collections.Counter()

        def policy(request):
            if request.kind == "put":  # the first stored result: the work is under way
                with self.lock:
                    seen["put"] += 1
                    now = seen["put"] == 2
                if now:
                    self.s3.put("inputs/large/m2/model-00001-of-00002.safetensors", data[:-8] + b"\1\2\3\4\5\6\7\10")
            return faults.PASS

        _, env = self.through(policy)
        recipe = self.recipe("awd_ties", self.inputs)
        result = cli("run", recipe, "--out", self.place.uri, "--threads", "1", "-o", "json", env=env)
        self.refused(result, "INPUT_CHANGED", 3, "m2/model-00001-of-00002.safetensors")
        self.assert_nothing_at(self.place)

    def test_somebody_else_publishes_first(self):
        """A foreign object appears under a name of ours: it stays, and ours is not written."""
        seen = collections.Counter()

        def policy(request):
            with self.lock:
                seen[request.kind] += 1
                now = request.kind == "complete" and seen["complete"] == 1
            if now:
                self.s3.put(request.key, b"somebody else's")
                seen[request.key] += 1
            return faults.PASS

        _, env = self.through(policy)
        result = cli("run", self.recipe("average", self.inputs), "--out", self.place.uri, "-o", "json", env=env)
        self.refused(result, "OUTPUT_EXISTS", 3, "model.safetensors")
        self.assertEqual(self.s3.get(self.place.key + "/model.safetensors"), b"somebody else's")
        self.assertEqual(self.place.debris(), [])

    def test_access_denied_in_the_middle(self):
        def policy(request):
            return faults.DENIED if request.kind == "part" else faults.PASS

        _, env = self.through(policy)
        result = cli("run", self.recipe("average", self.inputs), "--out", self.place.uri, "-o", "json", env=env)
        self.refused(result, "PERMISSION_DENIED", 7, "model.safetensors")
        self.assert_nothing_at(self.place)

    def test_credentials_expire_in_the_middle(self):
        """Access that was there: what is finished is kept, and the same command goes on once it is back."""
        reference = self.reference("awd", "9MB")
        for kind in ("part", "read"):
            with self.subTest(kind):
                seen = collections.Counter()

                def policy(request, kind=kind, seen=seen):
                    with self.lock:
                        seen[request.kind] += bool(seen["put"] or request.kind == "put")  # from the work area on
                        return faults.DENIED if request.kind == kind and seen[kind] > 3 else faults.PASS

                _, env = self.through(policy)
                place = S3Place(f"{self.key}/{kind}")
                recipe = self.recipe("awd", self.inputs, shard="9MB")
                result = cli("run", recipe, "--out", place.uri, "-o", "json", env=env)
                self.refused(result, "PERMISSION_DENIED", 7, "the same command resumes")
                self.assertIsNone(commit_of(place))
                again = self.run_ok(recipe, "--out", place.uri)
                if kind == "part":
                    self.assertTrue(again.json["resumed"])
                self.assert_complete(place, reference)

    def test_server_goes_away_and_comes_back(self):
        reference = self.reference("awd", "9MB")
        down = threading.Event()
        seen = collections.Counter()

        def policy(request):
            with self.lock:
                seen[request.kind] += 1
                if request.kind == "part" and seen["part"] == 3:
                    down.set()
            return faults.RESET if down.is_set() else faults.PASS

        _, env = self.through(policy)
        recipe = self.recipe("awd", self.inputs, shard="9MB")
        result = cli("run", recipe, "--out", self.place.uri, "-o", "json", env={**env, "AWS_MAX_ATTEMPTS": "2"})
        self.refused(result, "STORAGE_UNAVAILABLE", 6, "the same command resumes")
        self.assertIsNone(commit_of(self.place))
        again = self.run_ok(recipe, "--out", self.place.uri)
        self.assertTrue(again.json["resumed"])
        self.assert_complete(self.place, reference)
