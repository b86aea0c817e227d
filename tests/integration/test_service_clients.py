"""Clients made elsewhere: grpcio with code generated from proto/, grpcurl by reflection, ghz for load."""

import json
import os
import subprocess
import time
import urllib.request

from service import DURABLE, PARENT, PROTO, SERVICE, Follower, ServiceCase, document, new_id, pb, state_of, tool
from support import cli

METRICS = ["grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_received_total",
           "grpc_server_msg_sent_total", "grpc_server_handling_seconds", "orthomerge_jobs_submitted_total",
           "orthomerge_jobs_finished_total", "orthomerge_jobs", "orthomerge_queue_oldest_age_seconds",
           "orthomerge_job_queue_seconds", "orthomerge_job_run_seconds", "orthomerge_job_attempts_total",
           "orthomerge_lease_renew_failures_total", "orthomerge_storage_requests_total",
           "orthomerge_storage_request_seconds", "orthomerge_storage_bytes_total", "orthomerge_watchers",
           "orthomerge_watch_events_total", "orthomerge_watch_conflated_total", "orthomerge_watch_closed_total",
           "orthomerge_merge_bytes_total", "orthomerge_merge_tensors_total", "orthomerge_merge_phase_seconds",
           "orthomerge_worker_busy", "orthomerge_worker_hung",
           "orthomerge_config_reload_success_timestamp_seconds", "orthomerge_build_info"]


class Grpcio(ServiceCase):
    def test_tour(self):
        """Every method once, and a document gives the bytes that one command gives."""
        client = self.server().client()
        place = self.local_place_at("one")
        spec = document("awd_ties", self.small(), place.uri, shard="1MB", priority=7)
        plan = client.call("Plan", pb().service.PlanRequest(parent=PARENT, spec=spec))
        self.assertEqual(plan.plan.output_uri, place.uri)
        self.assertEqual(json.loads(plan.plan_json)["plan_digest"], plan.plan.digest)
        self.assertIn("ties", plan.plan_text)
        checked = client.create(spec, merge_job_id="first", validate_only=True)
        self.assertEqual(checked.plan.digest, plan.plan.digest)
        self.assertEqual(len(client.list().merge_jobs), 0, "validate_only stores nothing")
        self.assertFalse(place.exists())

        job = client.create(spec, merge_job_id="first", request_id=new_id(), labels={"team": "nlp"})
        self.assertEqual(job.name, f"{PARENT}/mergeJobs/first")
        self.assertEqual(job.plan.digest, plan.plan.digest)
        follower = Follower(client, job.name)
        follower.check(self, first=None)
        self.assertEqual(follower.final, "SUCCEEDED")
        done = client.get(job.name)
        self.assertEqual(state_of(done), "SUCCEEDED")
        self.assert_complete(place, self.reference("awd_ties", shard="1MB"))
        self.check_job(done, place, spec)
        listed = client.list().merge_jobs
        self.assertEqual([entry.name for entry in listed], [job.name])
        self.assertEqual(listed[0].result.report_json, "")
        client.delete(job.name)
        self.fault(lambda: client.get(job.name), "NOT_FOUND", "JOB_NOT_FOUND")
        self.assert_complete(place, self.reference("awd_ties", shard="1MB"))

    def check_job(self, job, place, spec):
        self.assertEqual(job.spec, spec)
        self.assertEqual(dict(job.labels), {"team": "nlp"})
        self.assertEqual(job.result.output_uri, place.uri)
        self.assertEqual(job.result.plan_digest, job.plan.digest)
        self.assertEqual(json.loads(job.result.report_json), json.loads(place.read("report.json")))
        self.assertEqual({file.name for file in job.result.files},
                         {name for name in place.names() if name.endswith(".safetensors")})
        for file in job.result.files:
            self.assertEqual(file.size, len(place.read(file.name)), file.name)
        self.assertEqual([attempt.number for attempt in job.attempts], [1])
        self.assertEqual(job.attempts[0].outcome, pb().job.MergeJobAttempt.OUTCOME_OK)
        times = [getattr(job, field).ToNanoseconds() for field in ("create_time", "start_time", "end_time")]
        self.assertEqual(times, sorted(times))
        self.assertRegex(job.etag, r'^".+"$')
        self.assertFalse(job.result.resumed or job.result.already_complete)

    def test_typed_recipe(self):
        """The same merge field by field: the same plan, the same bytes."""
        client = self.server().client()
        place = self.local_place_at("typed")
        recipe = pb().recipe.Recipe
        model = pb().recipe.Model
        inputs = self.small()
        typed = pb().job.MergeJobSpec(recipe=recipe(
            method="ties", base=model(uri=f"{inputs}/base"),
            models=[model(uri=f"{inputs}/m1"), model(uri=f"{inputs}/m2")],
            parameters={"density": pb().recipe.Parameter(number=0.3)},
            output=pb().recipe.Output(uri=place.uri)))
        text = document("ties", inputs, place.uri)
        plans = [client.call("Plan", pb().service.PlanRequest(parent=PARENT, spec=spec)).plan for spec in (typed, text)]
        self.assertEqual(plans[0], plans[1])
        job = client.wait(client.create(typed).name)
        self.assertEqual(state_of(job), "SUCCEEDED", job.error.message)
        self.assertEqual(job.spec, typed)
        self.assert_complete(place, self.reference("ties"))

    def test_s3(self):
        """Inputs and output in a bucket."""
        client = self.server().client()
        place = self.s3_place_at("bucket")
        job = client.wait(client.create(document("awd", self.world.family_uri("small"), place.uri)).name)
        self.assertEqual(state_of(job), "SUCCEEDED", job.error.message)
        self.assert_complete(place, self.reference("awd"))

    def test_watch_has_metrics_and_warnings(self):
        client = self.server().client()
        twice = document("awd", self.small(), self.output("twice"), models_used=("m1", "m2", "m1"))
        name = client.create(twice).name
        client.wait(name)
        job = client.get(name)
        follower = Follower(client, name)
        follower.check(self, first=None)
        self.assertEqual(follower.kinds(), ["snapshot"], "a final job has nothing to add")
        # From the start, by a token of the first event: taken from a watcher that was there in time.
        name = client.create(document("awd", self.small(), self.output("other"))).name
        live = Follower(client, name)
        live.check(self, first=None)
        series = {message.metrics.name: message.metrics for _, kind, message in live.messages if kind == "metrics"}
        self.assertIn("awd.loss.orthogonality", series, sorted(series))
        self.assertGreater(len(series["awd.loss.orthogonality"].samples), 2)
        steps = [sample.step for sample in series["awd.loss.orthogonality"].samples]
        self.assertEqual(steps, sorted(set(steps)))
        self.assertTrue(any("m1" in warning for warning in list(job.plan.warnings) + list(job.result.warnings)),
                        "the same URI twice is worth a warning")

    def test_resume_token(self):
        """Every token of a watch goes on behind its own message."""
        client = self.server().client()
        name = client.create(document("awd", self.small(), self.output())).name
        whole = Follower(client, name)
        whole.check(self, first=None)
        durable = [message.sequence for _, kind, message in whole.messages if kind in DURABLE]
        for _, kind, message in whole.messages[:-1]:
            again = list(client.watch(name, resume_token=message.resume_token))
            self.assertEqual([entry.sequence for entry in again if entry.WhichOneof("event") in DURABLE],
                             [number for number in durable if number > message.sequence], kind)
        self.assertGreater(len(durable), 2)

    def test_list_filter_and_pages(self):
        client = self.server(changes={"workers.devices": ["cpu"]}).client()
        names = []
        for number in range(7):
            method = "average" if number % 2 else "ties"
            job = client.create(document(method, self.small(), self.output(f"o{number}"), priority=number),
                                merge_job_id=f"job-{number}", labels={"parity": str(number % 2), "n": str(number)})
            names.append(job.name)
        for name in names:
            client.wait(name)
        pages, token = [], ""
        while True:
            page = client.list(page_size=3, page_token=token)
            pages.append([job.name for job in page.merge_jobs])
            token = page.next_page_token
            if not token:
                break
        self.assertEqual([len(page) for page in pages], [3, 3, 1])
        self.assertEqual(sum(pages, []), names[::-1], "newest first")
        oldest = client.list(order_by="create_time")
        self.assertEqual([job.name for job in oldest.merge_jobs], names)
        for text, wanted in (
                ('labels.parity = "1"', [5, 3, 1]), ("method = average AND priority > 1", [5, 3]),
                ("NOT method = average", [6, 4, 2, 0]), ("-labels.parity = 1", [6, 4, 2, 0]),
                ("state = SUCCEEDED AND (labels.n = 1 OR labels.n = 2)", [2, 1]), ("state = RUNNING", []),
                ("labels.n:*", [6, 5, 4, 3, 2, 1, 0]), ('create_time > "2000-01-01T00:00:00Z"', [6, 5, 4, 3, 2, 1, 0]),
                ('end_time < "2000-01-01T00:00:00Z"', []), ("labels.n = 1 OR labels.n = 2 AND priority = 2", [2]),
                ("priority <= 1", [1, 0]), ("error.reason = INPUT_NOT_FOUND", [])):
            with self.subTest(text):
                found = client.list(filter=text)
                self.assertEqual([job.name for job in found.merge_jobs], [names[i] for i in wanted])

    def test_methods_and_info(self):
        client = self.server().client()
        methods = client.call("ListMethods", pb().service.ListMethodsRequest()).methods
        local = cli("methods", "-o", "json").json
        listed = local if isinstance(local, list) else local["methods"]
        self.assertEqual(sorted(method.name for method in methods), sorted(entry["name"] for entry in listed))
        awd = next(method for method in methods if method.name == "awd")
        self.assertIn("alpha", [parameter.name for parameter in awd.parameters])
        info = client.call("GetServerInfo", pb().service.GetServerInfoRequest())
        self.assertIn("cpu", info.devices)
        self.assertFalse(info.draining)
        self.assertGreater(info.limits.max_queued_jobs, 0)
        self.assertEqual(info.limits.max_page_size, 1000)
        self.assertNotEqual(info.version, "")

    def test_health(self):
        server = self.server()
        client = server.client()
        for service in ("", SERVICE):
            self.assertEqual(client.health(service), "SERVING")
        with self.assertRaises(pb().grpc.RpcError) as caught:
            client.health("no.such.Service")
        self.assertEqual(caught.exception.code().name, "NOT_FOUND")
        from service import Client
        probe = Client(server.health_port)
        self.addCleanup(probe.close)
        for service in ("", SERVICE, "liveness"):
            with self.subTest(service):
                self.assertEqual(probe.health(service), "SERVING")


class Metrics(ServiceCase):
    def test_names_and_values(self):
        server = self.server()
        client = server.client()
        before = server.metrics()
        self.assertIn('grpc_server_started_total{grpc_method="Plan",grpc_service="orthomerge.v1.MergeService",'
                      'grpc_type="unary"}', before, "series of calls are there before the first call")
        name = client.create(document("average", self.small(), self.output())).name
        Follower(client, name).check(self, first=None)
        self.fault(lambda: client.get(name + "-not"), "NOT_FOUND", "JOB_NOT_FOUND")
        text = urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=5).read().decode()
        families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        self.assertEqual([name for name in METRICS if name not in families], [], sorted(families))
        self.assertTrue(all(line.split(maxsplit=3)[3:] for line in text.splitlines() if line.startswith("# HELP")))
        after = server.metrics()

        def moved(prefix, *labels):
            return sum(value - before.get(key, 0) for key, value in after.items()
                       if key.split("{")[0] == prefix and all(label in key for label in labels))
        self.assertEqual(moved("orthomerge_jobs_submitted_total", 'method="average"'), 1)
        self.assertEqual(moved("orthomerge_jobs_finished_total", 'method="average"'), 1)
        self.assertEqual(moved("orthomerge_job_run_seconds_count"), 1)
        self.assertEqual(moved("orthomerge_job_attempts_total", 'outcome="ok"'), 1)
        self.assertGreater(moved("orthomerge_merge_bytes_total"), 1000000)
        self.assertGreater(moved("orthomerge_storage_bytes_total"), 1000000)
        self.assertGreaterEqual(moved("orthomerge_watch_events_total"), 1)
        self.assertEqual(moved("grpc_server_handled_total", "GetMergeJob", "NOT_FOUND"), 1)
        self.assertEqual(moved("grpc_server_handled_total", "CreateMergeJob", 'grpc_code="OK"'), 1)
        self.assertEqual(moved("grpc_server_started_total", "WatchMergeJob"), 1)
        self.assertLess(len(after), 5000)

    def test_scrape_is_quick(self):
        server = self.server()
        begin = time.monotonic()
        for _ in range(10):
            server.metrics()
        self.assertLess((time.monotonic() - begin) / 10, 0.25)


class Foreign(ServiceCase):
    def grpcurl(self, server, *arguments):
        done = subprocess.run([tool("grpcurl"), "-plaintext", "-max-time", "20", *arguments], capture_output=True,
                              text=True, timeout=60, check=False)
        return done

    def test_grpcurl(self):
        server = self.server(changes={"reflection": True})
        address = f"127.0.0.1:{server.port}"
        listed = self.grpcurl(server, address, "list")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertIn(SERVICE, listed.stdout.split())
        methods = self.grpcurl(server, address, "list", SERVICE).stdout.split()
        self.assertEqual(len(methods), 9, methods)
        described = self.grpcurl(server, address, "describe", f"{SERVICE}.CreateMergeJob")
        self.assertIn("orthomerge.v1.CreateMergeJobRequest", described.stdout)
        info = self.grpcurl(server, address, f"{SERVICE}/GetServerInfo")
        self.assertIn("cpu", json.loads(info.stdout)["devices"], info.stderr)
        place = self.local_place_at("curl")
        inputs = self.small()
        request = {"parent": PARENT, "mergeJobId": "curl", "mergeJob": {"spec": {"recipe": {
            "method": "average", "models": [{"uri": f"{inputs}/m1"}, {"uri": f"{inputs}/m2"}],
            "base": {"uri": f"{inputs}/base"}, "output": {"uri": place.uri}}}}}
        created = self.grpcurl(server, "-d", json.dumps(request), address, f"{SERVICE}/CreateMergeJob")
        self.assertEqual(created.returncode, 0, created.stderr)
        name = json.loads(created.stdout)["name"]
        watched = self.grpcurl(server, "-d", json.dumps({"name": name}), address, f"{SERVICE}/WatchMergeJob")
        self.assertEqual(watched.returncode, 0, watched.stderr)
        self.assertIn("STATE_SUCCEEDED", watched.stdout)
        got = self.grpcurl(server, "-d", json.dumps({"name": name}), address, f"{SERVICE}/GetMergeJob")
        self.assertEqual(json.loads(got.stdout)["state"], "STATE_SUCCEEDED")
        self.assert_complete(place, self.reference("average"))
        missing = self.grpcurl(server, "-d", json.dumps({"name": name + "-not"}), address, f"{SERVICE}/GetMergeJob")
        self.assertNotEqual(missing.returncode, 0)
        self.assertIn("JOB_NOT_FOUND", missing.stderr)

    def test_reflection_can_be_off(self):
        server = self.server(changes={"reflection": False})
        listed = self.grpcurl(server, f"127.0.0.1:{server.port}", "list")
        self.assertNotEqual(listed.returncode, 0)
        self.assertIn("reflection", listed.stderr)

    def ghz(self, server, method, request, *arguments):
        # Its own parser is older than `optional` in proto3.
        description = os.path.join(self.folder, "description")
        subprocess.run(["protoc", "-I.", "--include_imports", f"--descriptor_set_out={description}",
                        "orthomerge/v1/merge_service.proto"], cwd=PROTO, check=True)
        done = subprocess.run(
            [tool("ghz"), "--insecure", "--protoset", description, "--call", f"{SERVICE}/{method}", "-d", json.dumps(request), "-O", "json", *arguments,
             f"127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_ghz(self):
        """A few seconds of creating at 50 a second, then of reading."""
        server = self.server()
        inputs = self.small()
        # The outputs differ by the number that ghz counts.
        request = {"parent": PARENT, "mergeJob": {"spec": {"priority": 1, "recipe": {
            "method": "average", "models": [{"uri": f"{inputs}/m1"}, {"uri": f"{inputs}/m2"}],
            "output": {"uri": self.output("ghz") + "-{{.RequestNumber}}"}}}}}
        report = self.ghz(server, "CreateMergeJob", request, "-r", "50", "-n", "250", "-c", "8")
        self.assertEqual(report["statusCodeDistribution"], {"OK": 250}, report.get("errorDistribution"))
        print(f"     Create, busy worker: p99 {self.p99(report):.1f} ms", flush=True)
        client = server.client()
        name = client.list(page_size=1).merge_jobs[0].name
        report = self.ghz(server, "GetMergeJob", {"name": name}, "-r", "200", "-n", "600", "-c", "8")
        self.assertEqual(report["statusCodeDistribution"], {"OK": 600})
        print(f"     Get, busy worker: p99 {self.p99(report):.1f} ms", flush=True)
        self.assertLess(self.p99(report), 500)
        for job in client.list(page_size=1000).merge_jobs:
            self.assertEqual(state_of(client.wait(job.name, seconds=60)), "SUCCEEDED")

    @staticmethod
    def p99(report):
        return next(entry["latency"] for entry in report["latencyDistribution"] if entry["percentage"] == 99) / 1e6
