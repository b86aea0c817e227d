"""Many watchers, watchers that never read, streams of finite length."""

import json
import os
import signal
import subprocess
import sys
import time

from gate import HeldCase, writes
from service import DURABLE, Follower, document, pb, state_of

WATCHERS = 200
WATCHERS_LONG = 500


class Watch(HeldCase):
    def watchers(self, server, job, count):
        process = subprocess.Popen([sys.executable, "-B", os.path.join(os.path.dirname(__file__), "watchers.py"),
                                    self.world.stubs, str(server.port), job, str(count)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self._end, process)
        return process

    def slow_job(self, client, name="slow"):
        """RUNNING, with its first result held until the gate opens; `gate.delay` slows it down from then on."""
        self.gate.close(writes)
        self.gate.delay = 0.0
        place = self.s3_place_at(name)
        spec = document("awd", self.world.family_uri("large"), place.uri, shard="9MB",
                        models_used=("m1", "m2", "m3"))
        job = client.create(spec)
        self.wait_held()
        return client.wait_state(job.name, "RUNNING"), place

    def crowd(self, count, worst):
        server = self.held_server(**{"workers.threads": 1, "workers.memory_budget": "64MiB"})
        client = server.client()
        # The same job, held and slow as well, once before and alone: what it takes is not to be put down to watchers.
        warm, _ = self.slow_job(client, "warm")
        self.gate.delay = 0.15
        self.gate.open()
        self.assertEqual(state_of(client.wait(warm.name)), "SUCCEEDED")
        highest = server.memory("VmHWM")
        job, place = self.slow_job(client)
        stuck = self.watchers(server, job.name, 20)  # reads nothing from here on
        self.assertEqual(stuck.stdout.readline(), "watching\n")
        stuck.send_signal(signal.SIGSTOP)
        before = server.memory()
        crowd = self.watchers(server, job.name, count)
        self.assertEqual(crowd.stdout.readline(), "watching\n")
        idle = (server.memory() - before) / count / 1024
        self.gate.delay = 0.15
        self.gate.open()
        out, err = crowd.communicate(timeout=180)
        self.assertEqual(crowd.returncode, 0, err)
        report = json.loads(out.splitlines()[-1])
        done = client.wait(job.name)
        self.assert_complete(place, self.reference("awd", "large", "9MB", ("m1", "m2", "m3")))
        self.assertEqual(report["problems"], [])
        self.assertEqual(len(report["seen"]), 1, f"all saw the same: {report['seen']}")
        self.assertEqual(report["seen"][0][0], done.sequence)
        self.assertEqual(report["seen"][0][-2:], ["PUBLISHING", "SUCCEEDED"])
        each = max(0, server.memory("VmHWM") - highest) / count / 1024
        print(f"     {count} watchers and 20 that do not read: {report['progress']['count']} progress messages, lag "
              f"p50 {1000 * report['progress']['p50']:.0f} ms, p99 {1000 * report['progress']['p99']:.0f} ms, states "
              f"p99 {1000 * report['state_change']['p99']:.0f} ms; {idle:.0f} KiB of the server per idle watcher, {each:.0f} more "
              "than the job alone at the peak", flush=True)
        self.assertGreater(report["progress"]["count"], 10 * count, "too few to say something")
        self.assertLess(report["progress"]["p99"], worst)
        self.assertLess(report["state_change"]["p99"], 2 * worst)
        self.assertLess(idle, 200)
        self.assertLess(each, 300)
        stuck.send_signal(signal.SIGCONT)
        out, err = stuck.communicate(timeout=60)
        late = json.loads(out.splitlines()[-1])
        self.assertEqual(late["problems"], [], "those that slept have missed nothing")

    def test_crowd(self):
        # On a machine that tests may share with anything, more than the half second of the long form.
        self.crowd(*((WATCHERS_LONG, 0.5) if self.world.rounds else (WATCHERS, 2.0)))

    def test_stream_age(self):
        """Streams end by themselves with a Reconnect, and the token goes on."""
        server = self.held_server(**{"limits.stream_age": "2s"})
        client = server.client()
        job, _ = self.running(client)
        follower = Follower(client, job.name)
        time.sleep(5)
        self.gate.open()
        follower.check(self, first=None)
        reasons = [message.reconnect.reason for _, kind, message in follower.messages if kind == "reconnect"]
        self.assertGreaterEqual(len(reasons), 1)
        self.assertEqual(set(reasons), {pb().event.Reconnect.REASON_STREAM_AGE})
        self.assertEqual(follower.faults, [])

    def test_watcher_limit(self):
        server = self.held_server(**{"limits.max_watchers": 3})
        client = server.client()
        job, _ = self.running(client)
        streams = [client.watch(job.name) for _ in range(3)]
        for stream in streams:
            self.assertEqual(next(stream).WhichOneof("event"), "snapshot")
        self.fault(lambda: client.watch(job.name), "RESOURCE_EXHAUSTED", "QUEUE_FULL")
        streams[0].cancel()

        def free():
            try:
                return next(client.watch(job.name)) is not None
            except pb().grpc.RpcError:
                return False
        self.assertTrue(self.wait_for(free, seconds=10), "a watcher that leaves makes room")

    def test_min_interval(self):
        server = self.held_server(**{"workers.threads": 1})
        client = server.client()
        job, _ = self.slow_job(client)
        from google.protobuf.duration_pb2 import Duration
        slow = Follower(client, job.name, min_interval=Duration(seconds=2))
        fast = Follower(client, job.name)
        self.gate.delay = 0.08
        self.gate.open()
        for follower in (slow, fast):
            follower.check(self, first=None)
        counts = [follower.kinds().count("progress") for follower in (slow, fast)]
        self.assertGreater(counts[1], counts[0])
        times = [received for received, kind, _ in slow.messages if kind == "progress"]
        self.assertTrue(all(later - earlier > 1.5 for earlier, later in zip(times, times[1:])), times)
        last = [message.progress for _, kind, message in fast.messages if kind == "progress"]
        done = [progress.bytes_done for progress in last]
        self.assertEqual(done, sorted(done), "progress never goes back")
        self.assertLessEqual(done[-1], last[-1].bytes_total)
        self.assertTrue(any(progress.HasField("time_left") for progress in last))
        self.assertEqual(slow.states(), fast.states())
        self.assertTrue(all(kind in (*DURABLE, "snapshot", "progress", "heartbeat") for kind in fast.kinds()))

    def test_watchers_leave(self):
        """Watchers that come and go leave nothing behind."""
        server = self.held_server()
        client = server.client()
        job, _ = self.running(client)
        for _ in range(100):
            stream = client.watch(job.name)
            next(stream)
            stream.cancel()
        self.assertTrue(self.wait_for(lambda: server.metrics()["orthomerge_watchers"] == 0, seconds=20))
        self.assertEqual(state_of(client.get(job.name)), "RUNNING")
