"""A file system that does not answer: the worker's thread is lost, and only a restart gives it back."""

import os
import subprocess

from service import SERVICE, Client, ServiceCase, document, state_of


class Hang(ServiceCase):
    def setUp(self):
        super().setUp()
        library, self.away = os.path.join(self.folder, "hang.so"), os.path.join(self.folder, "away")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, os.path.join(os.path.dirname(__file__), "hang.c")],
                       check=True)
        self.service = self.server(changes={"workers.hang_timeout": "1s", "jobs.lease": "3s"}, started=False)
        self.service.environment.update({"LD_PRELOAD": library, "HANG_WHILE": self.away})
        self.service.start()
        self.client = self.service.client()

    def liveness(self):
        probe = Client(self.service.health_port)
        try:
            return probe.health("liveness")
        finally:
            probe.close()

    def hung(self):
        """A cancelled job whose worker does not stop, and one that waits for that worker."""
        with open(self.away, "w", encoding="utf-8"):
            pass
        self.place = self.local_place_at("stuck")
        stuck = self.client.create(document("average", self.world.family("large"), self.place.uri))
        waiting = self.client.create(document("average", self.small(), self.output("waiting")))
        self.wait_for(lambda: os.path.exists(self.away + ".held"))
        self.assertEqual(self.liveness(), "SERVING")
        self.assertEqual(state_of(self.client.cancel(stuck.name)), "CANCELLING")
        self.wait_for(lambda: self.liveness() == "NOT_SERVING", seconds=15)
        self.assertEqual(self.client.health("liveness"), "NOT_SERVING")
        self.assertEqual(self.client.health(SERVICE), "SERVING", "it takes calls")
        self.assertEqual(self.service.metrics()['orthomerge_worker_hung{device="cpu"}'], 1)
        self.assertIn("a worker's thread does not stop", self.service.log())
        self.assertEqual(state_of(self.client.get(stuck.name)), "CANCELLING")
        self.assertEqual(state_of(self.client.get(waiting.name)), "QUEUED")
        return stuck, waiting

    def check_ends(self, stuck, waiting):
        self.assertEqual(state_of(self.client.wait(stuck.name)), "CANCELLED")
        self.assert_nothing_at(self.place)
        self.assertEqual(state_of(self.client.wait(waiting.name)), "SUCCEEDED")
        self.assertEqual(self.liveness(), "SERVING")

    def test_a_restart_gives_the_worker_back(self):
        jobs = self.hung()
        self.service.kill()  # as an orchestrator does in the end
        os.remove(self.away)
        self.service.start()
        self.check_ends(*jobs)

    def test_a_thread_that_comes_back(self):
        """The file system answers again: no restart is needed."""
        jobs = self.hung()
        os.remove(self.away)
        self.check_ends(*jobs)
        self.assertEqual(self.service.metrics()['orthomerge_worker_hung{device="cpu"}'], 0)
