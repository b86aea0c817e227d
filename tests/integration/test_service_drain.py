"""Stopping in order: watchers are told, finished work is kept, the next server goes on."""

import signal
import time

from gate import HeldCase
from service import SERVICE, Client, Follower, ServiceCase, document, pb, state_of
from support import cli, finish, start

THREADS = {"workers.threads": 1, "jobs.retry_backoff": "100ms", "drain.jobs": "0s"}


class Drain(ServiceCase):
    def job(self, client, place, **fields):
        return client.create(document("awd_ties", self.world.family("large"), place.uri, shard="5MB",
                                      models_used=("m1", "m2", "m3")), **fields)

    def reference_here(self):
        return self.reference("awd_ties", "large", "5MB", ("m1", "m2", "m3"))

    def test_sigterm_in_the_middle(self):
        reference = self.reference_here()
        server = self.server(changes=THREADS)
        client = server.client()
        place = self.local_place_at("one")
        job = self.job(client, place)
        queued = self.job(client, self.local_place_at("two"))
        followers = [Follower(client, name) for name in (job.name, job.name, queued.name)]
        self.wait_for(place.has_results)
        begin = time.monotonic()
        self.assertEqual(server.stop(timeout=40), 0, server.log()[-2000:])
        seconds = time.monotonic() - begin
        self.assertFalse(place.exists())
        self.assertNotEqual(place.debris(), [], "finished work is kept")
        server.start()
        done = client.wait(job.name)
        self.assertEqual(state_of(done), "SUCCEEDED", done.error.message)
        self.assertTrue(done.result.resumed)
        self.assertEqual([attempt.outcome for attempt in done.attempts],
                         [pb().job.MergeJobAttempt.OUTCOME_RELEASED, pb().job.MergeJobAttempt.OUTCOME_OK])
        for follower in followers:
            follower.check(self, first=None)
            reasons = [message.reconnect.reason for _, kind, message in follower.messages if kind == "reconnect"]
            self.assertEqual(reasons, [pb().event.Reconnect.REASON_SERVER_DRAINING])
        self.assertEqual(followers[0].states()[-4:], ["QUEUED", "RUNNING", "PUBLISHING", "SUCCEEDED"])
        self.assert_complete(place, reference)
        client.wait(queued.name)
        self.assert_complete(self.local_place_at("two"), reference)
        print(f"     drained in {seconds:.2f} s", flush=True)
        self.assertLess(seconds, 15)

    def test_load_balancers_hear_of_it_first(self):
        """For a while it says that it is not ready and serves all the same; what it takes then is kept, not started."""
        reference = self.reference_here()  # and the inputs, for which there is no time below
        server = self.server(changes={"drain.propagation": "2s"})
        client = server.client()
        health = Client(server.health_port)
        self.addCleanup(health.close)
        self.assertEqual(health.health(SERVICE), "SERVING")
        server.signal(signal.SIGTERM)
        self.assertTrue(self.wait_for(lambda: client.health(SERVICE) == "NOT_SERVING", seconds=2))
        self.assertEqual(health.health(SERVICE), "NOT_SERVING")
        self.assertEqual(health.health("liveness"), "SERVING")
        job = self.job(client, self.local_place_at("one"))
        self.assertEqual(state_of(client.get(job.name)), "QUEUED")
        self.assertEqual(server.process.wait(30), 0, server.log()[-1000:])
        server.start()
        self.assertEqual(state_of(client.wait(job.name)), "SUCCEEDED")
        self.assert_complete(self.local_place_at("one"), reference)

    def test_second_signal(self):
        server = self.server(changes={**THREADS, "drain.propagation": "30s"})
        self.job(server.client(), self.local_place_at("one"))
        server.signal(signal.SIGTERM)
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        self.assertEqual(server.process.wait(5), 128 + signal.SIGTERM)

    def test_submit_survives(self):
        """`submit --wait` outlives a server that stops and one that is killed."""
        reference = self.reference_here()
        server = self.server(changes=THREADS)
        place = self.local_place_at("one")
        recipe = self.recipe("awd_ties", self.world.family("large"), shard="5MB", models_used=("m1", "m2", "m3"))
        process = start("submit", recipe, "--wait", "--out", place.uri, "--server", f"127.0.0.1:{server.port}",
                        "-o", "json")
        self.addCleanup(self._end, process)
        self.wait_for(place.has_results, process)
        self.assertEqual(server.stop(), 0)
        time.sleep(0.3)
        server.start()
        time.sleep(0.3)
        server.kill()
        time.sleep(0.3)
        server.start()
        result = finish(process, timeout=60)
        self.assertEqual(result.code, 0, str(result))
        self.assertTrue(result.json["ok"], str(result))
        self.assert_complete(place, reference)
        self.assertEqual(cli("list", "--server", f"127.0.0.1:{server.port}").code, 0)


class NearlyDone(HeldCase):
    def test_it_may_end(self):
        """A job that can end within the time that a stop allows does, and its watchers see it."""
        server = self.held_server(**{**THREADS, "drain.jobs": "30s"})
        client = server.client()
        self.gate.delay = 0.1
        place = self.s3_place_at("one")
        spec = document("awd_ties", self.world.family_uri("large"), place.uri, models_used=("m1", "m2", "m3"))
        reference = self.reference("awd_ties", "large", None, ("m1", "m2", "m3"))
        job = client.create(spec)
        follower = Follower(client, job.name)
        self.wait_for(lambda: any(kind == "progress" and message.progress.HasField("time_left")
                                  for _, kind, message in follower.messages))
        self.assertEqual(server.stop(timeout=60), 0)
        self.assert_complete(place, reference)
        server.start()
        self.assertEqual([attempt.outcome for attempt in client.get(job.name).attempts],
                         [pb().job.MergeJobAttempt.OUTCOME_OK])
        follower.check(self, first=None)
        self.assertEqual(follower.streams, 1, "the end comes before the stream is closed")
