"""The command line against a server: results for programs, exit codes, what a person reads."""

import json
import os
import signal
import time

from gate import HeldCase
from service import FINAL, document, free_ports, state_of
from support import cli, finish, start


class Cli(HeldCase):
    def setUp(self):
        super().setUp()
        self.service = self.held_server(**{"jobs.max_queued": 3})
        self.client = self.service.client()
        self.at = ("--server", f"127.0.0.1:{self.service.port}")

    def submit(self, *arguments, place=None, method="average", inputs=None, **options):
        self.place = place or self.local_place_at("out")
        return cli("submit", self.recipe(method, inputs or self.small()), "--out", self.place.uri, *self.at,
                   *arguments, **options)

    def test_submit_and_wait(self):
        path = os.path.join(self.folder, "result.json")
        result = self.submit("--wait", "--result-file", path, "--id", "first", "--label", "team=nlp", "-o", "json")
        self.assertEqual(result.code, 0, str(result))
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        self.assertEqual(stored, result.json)
        self.assertTrue(stored["ok"])
        self.assertEqual((stored["state"], stored["result"]["output_uri"]), ("SUCCEEDED", self.place.uri))
        self.assertIn("first", stored["job"])
        self.assert_complete(self.place, self.reference("average"))
        job = self.client.get("tenants/default/mergeJobs/first")
        self.assertEqual(dict(job.labels), {"team": "nlp"})
        self.assertEqual(stored["result"]["plan_digest"], job.result.plan_digest)

    def test_submit_and_go(self):
        result = self.submit("--id", "second")
        self.assertEqual(result.code, 0, str(result))
        self.assertIn("second", result.out)
        watched = cli("watch", "second", *self.at)
        self.assertEqual(watched.code, 0, str(watched))
        got = cli("get", "second", *self.at, "-o", "json")
        self.assertEqual(got.code, 0, str(got))
        self.assertIn("SUCCEEDED", got.out)
        for shape in ("table", "yaml"):
            shown = cli("get", "second", *self.at, "-o", shape)
            self.assertEqual(shown.code, 0, str(shown))
            self.assertIn(self.place.uri, shown.out)
        listed = cli("list", *self.at)
        self.assertIn("second", listed.out)
        self.assertIn("SUCCEEDED", listed.out)
        self.assertEqual(cli("delete", "second", *self.at).code, 0)
        self.assertEqual(cli("get", "second", *self.at).code, 2)

    def test_plan_and_methods(self):
        recipe = self.recipe("ties", self.small())
        planned = cli("plan", recipe, "--out", self.output("p"), *self.at)
        self.assertEqual(planned.code, 0, str(planned))
        self.assertIn("ties", planned.out)
        self.assertFalse(os.path.exists(self.output("p")))
        checked = cli("submit", recipe, "--out", self.output("p"), *self.at, "--validate-only")
        self.assertEqual(checked.code, 0, str(checked))
        self.assertEqual(len(self.client.list().merge_jobs), 0)
        info = cli("server-info", *self.at)
        self.assertIn("cpu", info.out, str(info))

    def test_faulty_recipe(self):
        """2: usage or an invalid spec, with line and column of the user's file."""
        path = self.write("method: tiez\nmodels: []\n", "bad.yaml")
        result = cli("submit", path, "--out", self.output(), *self.at, "-o", "json")
        self.assertEqual((result.code, result.reason), (2, "UNKNOWN_METHOD"), str(result))
        self.assertIn("bad.yaml:1", result.err)
        self.assertEqual(cli("submit").code, 2)
        self.assertEqual(cli("submit", path, "--wiat", *self.at).code, 2)
        self.assertEqual(cli("submit", os.path.join(self.folder, "none.yaml"), *self.at).code, 3)
        self.assertEqual(cli("cancel", "there-is-none", *self.at).code, 2)

    def test_missing_input(self):
        result = self.submit("-o", "json", inputs=self.small() + "/none")
        self.assertEqual((result.code, result.reason), (3, "INPUT_NOT_FOUND"), str(result))

    def test_failed_job(self):
        """3: the job failed."""
        self.running(self.client)
        place = self.local_place_at("late")
        recipe = self.recipe("average", self.small())
        process = start("submit", recipe, "--out", place.uri, *self.at, "--wait", "-o", "json")
        self.addCleanup(self._end, process)
        self.wait_for(lambda: len(self.client.list().merge_jobs) == 2, process)
        os.makedirs(place.path)
        with open(os.path.join(place.path, "model.safetensors"), "wb") as file:
            file.write(b"x")
        self.gate.open()
        result = finish(process)
        self.assertEqual(result.code, 3, str(result))
        self.assertIn(result.reason, ("OUTPUT_EXISTS", "OUTPUT_INCOMPLETE"))

    def test_cancelled_job(self):
        """4: somebody cancelled it."""
        self.running(self.client)
        process = start("submit", self.recipe("average", self.small()), "--out", self.output("c"), *self.at, "--wait",
                        "--id", "mine", "-o", "json")
        self.addCleanup(self._end, process)
        self.wait_for(lambda: len(self.client.list().merge_jobs) == 2, process)
        self.assertEqual(cli("cancel", "mine", *self.at).code, 0)
        result = finish(process)
        self.assertEqual((result.code, result.json["state"], result.json["ok"]), (4, "CANCELLED", False), str(result))
        self.assertEqual(cli("cancel", "mine", *self.at).code, 2)

    def test_timeout_and_interrupt(self):
        """5: still running when the time was over; 130 and 143: detached. The job goes on each time."""
        self.running(self.client)
        recipe = self.recipe("average", self.small())
        result = cli("submit", recipe, "--out", self.output("t"), *self.at, "--wait", "--wait-timeout", "1s", "--id",
                     "mine", "-o", "json")
        self.assertEqual(result.code, 5, str(result))
        for number in (signal.SIGINT, signal.SIGTERM):
            process = start("watch", "mine", *self.at)
            self.addCleanup(self._end, process)
            time.sleep(0.5)
            process.send_signal(number)
            self.assertEqual(finish(process, timeout=10).code, 128 + number)
        job = self.client.get("tenants/default/mergeJobs/mine")
        self.assertNotIn(state_of(job), FINAL)
        self.gate.open()
        self.assertEqual(cli("watch", "mine", *self.at).code, 0)

    def test_cancel_on_exit(self):
        self.running(self.client)
        process = start("submit", self.recipe("average", self.small()), "--out", self.output("x"), *self.at, "--wait",
                        "--cancel-on-exit", "--id", "mine")
        self.addCleanup(self._end, process)
        self.wait_for(lambda: len(self.client.list().merge_jobs) == 2, process)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        self.assertEqual(finish(process, timeout=10).code, 130)
        self.assertEqual(state_of(self.client.wait("tenants/default/mergeJobs/mine")), "CANCELLED")

    def test_server_away(self):
        """6: nobody answers."""
        port = free_ports(1)[0]
        begin = time.monotonic()
        result = cli("list", "--server", f"127.0.0.1:{port}", "--connect-timeout", "1s", "-o", "json")
        self.assertEqual(result.code, 6, str(result))
        self.assertLess(time.monotonic() - begin, 10)
        result = cli("submit", self.recipe("average", self.small()), "--out", self.output(), "--server",
                     f"127.0.0.1:{port}", "--connect-timeout", "1s", "-o", "json")
        self.assertEqual(result.code, 6, str(result))

    def test_not_allowed(self):
        """7: outside of what the server opens."""
        result = cli("submit", self.recipe("average", self.small()), "--out", "/elsewhere/out", *self.at, "-o", "json")
        self.assertEqual((result.code, result.reason), (7, "URI_NOT_ALLOWED"), str(result))
        listed = cli("list", *self.at, "--tenant", "other", "-o", "json")
        self.assertEqual(listed.code, 7, str(listed))

    def test_queue_full(self):
        """8: later."""
        self.running(self.client)
        for number in range(2):
            self.client.create(document("average", self.small(), self.output(f"q{number}")))
        result = self.submit("-o", "json")
        self.assertEqual((result.code, result.reason), (8, "QUEUE_FULL"), str(result))

    def test_same_request_attaches(self):
        """A replaced pod finds its job again by the request id."""
        request = "0d7f1f0e-7b5c-4a59-9b1e-1c1f5f3b2a10"
        recipe = self.recipe("average", self.small())
        for _ in range(2):
            result = cli("submit", recipe, "--out", self.output("r"), *self.at, "--wait", "--request-id", request,
                         "-o", "json")
            self.assertEqual(result.code, 0, str(result))
        self.assertEqual(len(self.client.list().merge_jobs), 1)

    def test_completion(self):
        for shell in ("bash", "zsh"):
            result = cli("completion", shell)
            self.assertEqual(result.code, 0, str(result))
            for word in ("submit", "watch", "--wait"):
                self.assertIn(word, result.out)
