"""A long queue: creating, reading and claiming stay fast."""

import os
import random
import statistics
import threading
import time

import proxy
from gate import HeldCase
from service import document, new_id, state_of
from support import cli

QUEUED, QUEUED_LONG = 1000, 10000
RATE = 50.0  # creations a second
CREATORS = 8


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share / 100))]


class Queue(HeldCase):
    def fill(self, client, count):
        """`count` jobs at RATE, from several threads; the seconds that each call took from its due moment on."""
        taken, faults, lock = [], [], threading.Lock()
        numbers = iter(range(count))
        begin = time.monotonic()

        def create():
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                due = begin + number / RATE
                time.sleep(max(0.0, due - time.monotonic()))
                spec = document("average", self.small(), self.output(f"q{number}"), priority=number % 3)
                try:
                    client.create(spec, request_id=new_id(), labels={"third": str(number % 3)})
                    taken.append(time.monotonic() - due)
                except Exception as error:  # pylint: disable=broad-except
                    faults.append(str(error))
        threads = [threading.Thread(target=create) for _ in range(CREATORS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(faults[:3], [])
        return taken

    def timed(self, count, call):
        seconds = []
        for _ in range(count):
            begin = time.monotonic()
            call()
            seconds.append(time.monotonic() - begin)
        return seconds

    def test_queue(self):
        count = QUEUED_LONG if self.world.rounds else QUEUED
        server = self.held_server(**{"jobs.max_queued": count + 1})
        client = server.client()
        blocker, _ = self.running(client)
        self.small()
        before = server.memory()
        taken = self.fill(client, count)
        figures = {"create": taken}
        rng = random.Random(self.world.seed)
        names, token = [], ""
        pages = []
        while True:
            begin = time.monotonic()
            page = client.list(page_size=1000, page_token=token)
            pages.append(time.monotonic() - begin)
            names += [job.name for job in page.merge_jobs]
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(len(set(names)), count + 1)
        self.assertEqual(len(names), count + 1)
        figures["list of 1000"] = pages
        figures["get"] = self.timed(300, lambda: client.get(rng.choice(names)))
        figures["list of 50"] = self.timed(100, lambda: client.list(page_size=50))
        figures["list with a filter"] = self.timed(50, lambda: client.list(
            page_size=50, filter='state = QUEUED AND labels.third = "1"'))
        figures["list that finds nothing"] = self.timed(20, lambda: client.list(filter='labels.third = "7"'))
        fault = self.fault(lambda: client.create(document("average", self.small(), self.output("more"))),
                           "RESOURCE_EXHAUSTED", "QUEUE_FULL")
        self.assertIn(str(count + 1), fault.message)
        memory = server.memory() - before
        self.assertTrue(self.wait_for(lambda: server.metrics()['orthomerge_jobs{state="QUEUED"}'] == count, seconds=10))
        # Claims: from the end of one job to the start of the next, with the queue as long as it is.
        self.gate.open()
        client.wait(blocker.name)
        done = self.finished(client, 40)
        gaps = [(later.attempts[0].start_time.ToNanoseconds() - earlier.end_time.ToNanoseconds()) / 1e9
                for earlier, later in zip(done, done[1:])]
        figures["claim"] = gaps
        self.assertEqual({job.spec.priority for job in done}, {2}, "the highest priority first")
        print(f"     {count} queued: " + "; ".join(
            f"{name} p50 {1000 * statistics.median(values):.1f} p99 {1000 * percentile(values, 99):.1f} ms"
            for name, values in figures.items()) + f"; {memory / count / 1024:.1f} KiB of memory per job", flush=True)
        limits = {"create": 0.5, "get": 0.2, "list of 50": 0.5, "list with a filter": 1.0,
                  "list that finds nothing": 1.0, "list of 1000": 2.0, "claim": 0.5}
        for name, worst in limits.items():
            self.assertLess(percentile(figures[name], 95), worst, name)
        # A restart with the whole queue.
        server.kill()
        server.start()
        print(f"     serving again after {server.seconds:.2f} s", flush=True)
        self.assertLess(server.seconds, 5)
        self.assertEqual(len(client.list(page_size=10).merge_jobs), 10)

    def test_jobs_that_nobody_can_run(self):
        """A restart with less memory leaves them queued, and they say why; one with enough runs them."""
        server = self.held_server(**{"workers.memory_budget": "1GiB"})
        client = server.client()
        begun, _ = self.running(client)
        place = self.local_place_at("second")
        second = client.create(document("average", self.small(), place.uri))
        server.kill()
        self.gate.open(proxy.RESET)
        server.configure({"workers.memory_budget": "16MiB"})
        server.start()
        for job in (begun, second):
            got = client.get(job.name)
            self.assertEqual(state_of(got), "QUEUED")
            self.assertIn("16.0 MiB", got.blocked_reason)
            self.assertNotEqual(got.etag, job.etag)
            warned = [message.warning.message for message in self.replay(client, job.name, got.sequence)
                      if message.WhichOneof("event") == "warning"]
            self.assertEqual(warned, [got.blocked_reason])
        listed = client.list().merge_jobs
        self.assertEqual({job.blocked_reason for job in listed}, {got.blocked_reason})
        shown = cli("get", "--server", f"127.0.0.1:{server.port}", second.name)
        self.assertIn(got.blocked_reason, shown.out)
        self.assertIn("QUEUED (blocked)", cli("list", "--server", f"127.0.0.1:{server.port}").out)
        self.assertIn("queued jobs want a device or memory", server.log())
        server.kill()
        server.configure({"workers.memory_budget": "1GiB"})
        server.start()
        for job in (begun, second):
            done = client.wait(job.name)
            self.assertEqual((state_of(done), done.blocked_reason), ("SUCCEEDED", ""))
        self.assert_complete(place, self.reference("average"))

    @staticmethod
    def replay(client, name, last):
        """The first events of a job, up to the one with that number."""
        stream = client.watch(name, replay=True)
        messages = []
        for message in stream:
            messages.append(message)
            if message.sequence == last:
                break
        stream.cancel()
        return messages

    def finished(self, client, count):
        """The first jobs that succeeded, by the time of their end."""
        end = time.monotonic() + 60
        while True:
            found = client.list(filter="state = SUCCEEDED AND priority = 2", page_size=1000).merge_jobs
            if len(found) >= count or time.monotonic() > end:
                self.assertGreaterEqual(len(found), count)
                return sorted(found, key=lambda job: job.end_time.ToNanoseconds())[:count]
            time.sleep(0.2)
