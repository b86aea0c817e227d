"""SIGKILL of the server at random moments: what was acknowledged ends once, with the right bytes, seen without a hole.

`--rounds N` kills N times while N / 10 jobs are made and run, half of them on S3.
"""

import collections
import os
import random
import threading
import time

from service import FINAL, Follower, ServiceCase, document, new_id, pb, state_of

JOBS, KILLS = 8, 25
# What a restart forgives: here an attempt is lost far more often than a crash of its own making would be plausible.
CHANGES = {"workers.threads": 1, "jobs.retry_backoff": "50ms", "jobs.max_worker_losses": 1000}
METHODS = (("awd_ties", "5MB"), ("ties", None), ("awd_ties", None), ("awd", "9MB"))


class Submission(threading.Thread):
    """Creates one job, again and again with the same request id until it is acknowledged; then watches it."""

    def __init__(self, client, spec, number):
        super().__init__(daemon=True)
        self.client, self.spec, self.number = client, spec, number
        self.request_id, self.tries = new_id(), 0
        self.job = self.follower = self.problem = None
        self.start()

    def run(self):
        while self.job is None:
            self.tries += 1
            try:
                self.job = self.client.create(self.spec, request_id=self.request_id, timeout=10,
                                              labels={"number": str(self.number)}).name
            except pb().grpc.RpcError as error:
                if error.code().name not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"):
                    self.problem = f"{error.code().name}: {error.details()}"
                    return
                time.sleep(0.03)
        self.follower = Follower(self.client, self.job, patience=900)


class ServiceKill(ServiceCase):
    def submission(self, client, number):
        method, shard = METHODS[number % len(METHODS)]
        on_s3 = number % 2 == 1
        place = self.s3_place_at(f"job{number}") if on_s3 else self.local_place_at(f"job{number}")
        inputs = self.world.family_uri("large") if on_s3 else self.world.family("large")
        spec = document(method, inputs, place.uri, shard=shard, models_used=("m1", "m2", "m3"))
        self.places[number] = (place, self.reference(method, "large", shard, ("m1", "m2", "m3")))
        return Submission(client, spec, number)

    def observe(self):
        """What the server was doing when it died, by its own list of a moment before."""
        try:
            jobs = self.probe.call("ListMergeJobs", pb().service.ListMergeJobsRequest(
                parent="tenants/default", page_size=1000), timeout=2).merge_jobs
        except pb().grpc.RpcError:
            return "starting"
        states = [state_of(job) for job in jobs]
        for state in ("PUBLISHING", "RUNNING", "QUEUED"):
            if state in states:
                return state
        return "idle"

    def kill_often(self, jobs, kills, rng):
        server = self.server(changes=CHANGES)
        client, self.probe, self.places = server.client(), server.client(), {}
        tally, made, self.uptime = collections.Counter(), [], 0.0
        alone = self.submission(client, jobs)  # undisturbed, to learn how long a job takes
        alone.join(60)
        job = client.wait(alone.job)
        self.assertEqual(state_of(job), "SUCCEEDED")
        seconds = (job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9
        for kill in range(kills):
            begin = time.monotonic()
            if server.process.poll() is not None:
                server.spawn() if rng.random() < 0.2 else server.start(reconnect=False)
            finished = sum(1 for job in made if job.follower is not None and job.follower.final is not None)
            # One runs, two wait; in the end none is left over.
            creating = len(made) < min(jobs, finished + 3) or jobs - len(made) >= kills - kill
            if creating:
                made.append(self.submission(client, len(made)))
            moment = rng.uniform(0, 1.7 * (jobs - finished) * seconds / (kills - kill))
            if creating and rng.random() < 0.5:
                moment = rng.uniform(0, 0.03)
            time.sleep(min(moment, 2.0))
            tally["during a create" if creating and made[-1].job is None else self.observe()] += 1
            server.kill()
            self.uptime += time.monotonic() - begin
        server.start()
        for submission in made:
            submission.join(120)
            self.assertIsNone(submission.problem, submission.number)
            self.assertIsNotNone(submission.job, f"{submission.number}: never acknowledged")
        self.assertEqual(len(made), jobs)
        made.append(alone)
        for submission in made:
            job = client.wait(submission.job, seconds=300)
            self.assertEqual(state_of(job), "SUCCEEDED", f"{job.name}: {job.error.message}")
        return server, client, made, tally

    def check(self, server, client, made, tally):
        attempts = streams = from_one = resumed = 0
        listed = client.list(page_size=1000).merge_jobs
        self.assertEqual(sorted(job.name for job in listed), sorted(job.job for job in made), "each exists once")
        self.assertEqual(len({job.labels["number"] for job in listed}), len(made))
        for submission in made:
            place, reference = self.places[submission.number]
            with self.subTest(f"job {submission.number}"):
                self.assert_complete(place, reference)
                job = client.get(submission.job)
                outcome = pb().job.MergeJobAttempt.Outcome.Name
                outcomes = [outcome(attempt.outcome) for attempt in job.attempts]
                self.assertEqual(outcomes, ["OUTCOME_LOST"] * (len(outcomes) - 1) + ["OUTCOME_OK"])
                numbers = [attempt.number for attempt in job.attempts]  # the newest are kept
                self.assertEqual(numbers, list(range(numbers[-1] - len(numbers) + 1, numbers[-1] + 1)))
                self.assertEqual(numbers[0], max(1, numbers[-1] - 19))
                submission.follower.check(self, first=None)
                self.assertEqual(submission.follower.messages[-1][2].sequence, job.sequence)
                attempts += numbers[-1]
                streams += submission.follower.streams
                from_one += submission.follower.messages[0][2].sequence == 1
                resumed += job.result.resumed
        self.assertEqual(self.s3.uploads(self.key + "/"), [])
        print(f"     {sum(tally.values())} kills in {self.uptime:.1f} s "
              f"({', '.join(f'{n} {state}' for state, n in tally.most_common())}): {len(made)} jobs, "
              f"{sum(job.tries for job in made)} calls to create them, {attempts} attempts, {resumed} results with "
              f"stored work, {streams} streams, {from_one} watched from event 1", flush=True)
        self.assertGreater(tally["RUNNING"] + tally["PUBLISHING"], sum(tally.values()) // 4, "kills hit too little")
        self.assertGreater(resumed, 0)
        self.assertEqual(server.stop(), 0, server.log()[-2000:])
        self.check_database(server)
        known = ("jobs.db", "jobs.db-wal", "jobs.db-shm", "lock", "jobs.db.lock")
        self.assertEqual([name for name in os.listdir(server.data) if name not in known], [])

    def test_server(self):
        kills = self.world.rounds or KILLS
        jobs = max(JOBS, kills // 10)
        rng = random.Random(f"{self.world.seed} service")
        self.check(*self.kill_often(jobs, kills, rng))

    def test_cancel_and_kill(self):
        """A cancelled job stays cancelled and leaves nothing, wherever the kill comes."""
        rng = random.Random(f"{self.world.seed} cancel")
        server = self.server(changes=CHANGES)
        client = server.client()
        for number in range(max(5, self.world.rounds // 10)):
            on_s3 = number % 2 == 1
            place = self.s3_place_at(f"c{number}") if on_s3 else self.local_place_at(f"c{number}")
            inputs = self.world.family_uri("large") if on_s3 else self.world.family("large")
            job = client.create(document("awd_ties", inputs, place.uri, shard="5MB", models_used=("m1", "m2", "m3")))
            client.wait_state(job.name, "RUNNING", "PUBLISHING")
            time.sleep(rng.uniform(0, 0.5))
            state = state_of(client.cancel(job.name))
            time.sleep(rng.choice((0, 0, rng.uniform(0, 0.05))))
            server.kill()
            server.start()
            ended = client.wait(job.name)
            with self.subTest(f"{number}: {state} at the answer"):
                self.assertIn(state_of(ended), FINAL)
                if state in ("CANCELLING", "CANCELLED"):
                    self.assertEqual(state_of(ended), "CANCELLED")
                    self.assert_nothing_at(place)
