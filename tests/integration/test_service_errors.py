"""Every refusal has its code, reason and details, all faults at once, and a status that fits the trailers."""

import os
import time

import models
import proxy
from gate import HeldCase, writes
from service import FINAL, PARENT, Client, Fault, Follower, ServiceCase, document, new_id, pb, state_of

NAME = f"{PARENT}/mergeJobs/"


class States(HeldCase):
    def test_cancel_queued(self):
        client = self.held_server().client()
        self.running(client)
        job = client.create(document("average", self.small(), self.output("queued")))
        follower = Follower(client, job.name)
        self.wait_for(lambda: follower.messages)
        self.assertEqual(state_of(client.cancel(job.name, reason="not needed")), "CANCELLED")
        follower.check(self)
        self.assertEqual(follower.final, "CANCELLED")
        self.fault(lambda: client.cancel(job.name), "FAILED_PRECONDITION", "JOB_FINAL", "PreconditionFailure")
        self.gate.open()
        self.assertEqual(len(client.get(job.name).attempts), 0)
        self.assertFalse(os.path.exists(self.output("queued")))
        client.delete(job.name)

    def test_cancel_running(self):
        client = self.held_server().client()
        job, place = self.running(client)
        follower = Follower(client, job.name)
        self.wait_for(lambda: follower.messages)
        begin = time.monotonic()
        cancelled = client.cancel(job.name)
        self.assertIn(state_of(cancelled), ("CANCELLING", "CANCELLED"))
        self.assertTrue(cancelled.cancel_requested)
        # Again while it is being cancelled: the same answer.
        try:
            self.assertIn(state_of(client.cancel(job.name)), ("CANCELLING", "CANCELLED"))
        except pb().grpc.RpcError as error:
            self.assertEqual(Fault(error).reason, "JOB_FINAL")
        self.gate.open(proxy.UNAVAILABLE)
        job = client.wait(job.name, seconds=30)
        print(f"     a running job was cancelled {time.monotonic() - begin:.2f} s after the call", flush=True)
        self.assertEqual(state_of(job), "CANCELLED")
        follower.check(self, first=None)
        self.assertEqual(follower.states()[-2:], ["CANCELLING", "CANCELLED"])
        self.assert_nothing_at(place)
        self.fault(lambda: client.cancel(job.name), "FAILED_PRECONDITION", "JOB_FINAL", "PreconditionFailure")

    def test_cancel_publishing(self):
        """Too late: the answer shows the job, and it succeeds."""
        client = self.held_server().client()
        job, place = self.running(client, match=lambda request: request.kind == "complete")
        self.assertEqual(state_of(client.wait_state(job.name, "PUBLISHING")), "PUBLISHING")
        self.assertEqual(state_of(client.cancel(job.name)), "PUBLISHING")
        self.gate.open()
        self.assertEqual(state_of(client.wait(job.name)), "SUCCEEDED")
        self.assert_complete(place, self.reference("average"))

    def hold_late_parts(self):
        """Of whatever writes next, from the third part on."""
        parts = []

        def late(request):
            if request.kind == "part":
                parts.append(request)
            return request.kind == "part" and len(parts) > 2
        self.gate.close(late)

    def test_access_that_expires(self):
        """The storage refuses what it had allowed: another attempt goes on once it allows it again."""
        client = self.held_server(**{"jobs.retry_backoff": "100ms", "workers.threads": 1}).client()
        self.hold_late_parts()
        place = self.s3_place_at("expires")
        job = client.create(document("awd", self.world.family_uri("large"), place.uri, shard="9MB",
                                     models_used=("m1", "m2", "m3")))
        self.wait_held()
        self.gate.open(proxy.DENIED)
        done = client.wait(job.name)
        self.assertEqual(state_of(done), "SUCCEEDED", done.error.message)
        self.assertEqual(done.attempts[0].reason, "PERMISSION_DENIED")
        self.assertTrue(done.result.resumed)
        self.assert_complete(place, self.reference("awd", "large", "9MB", ("m1", "m2", "m3")))

    def test_cancel_of_a_twin(self):
        """Two jobs of one plan and output: cancelling one leaves what the other has done."""
        client = self.held_server(**{"jobs.retry_backoff": "100ms", "workers.threads": 1}).client()
        self.hold_late_parts()
        place = self.s3_place_at("twins")
        spec = document("awd", self.world.family_uri("large"), place.uri, shard="9MB", models_used=("m1", "m2", "m3"))
        first = client.create(spec)
        self.wait_held()
        spec.priority = 5  # so that it is the next, whenever the first is tried again
        twin = client.create(spec)
        self.assertEqual(twin.plan.digest, first.plan.digest)
        self.gate.delay = 0.2
        self.gate.open(proxy.DENIED)
        client.wait_state(twin.name, "RUNNING")
        self.gate.close(writes)
        self.wait_held()
        client.cancel(twin.name)
        self.gate.delay = 0.0
        self.gate.open(proxy.UNAVAILABLE)
        self.assertEqual(state_of(client.wait(twin.name)), "CANCELLED")
        done = client.wait(first.name)
        self.assertEqual(state_of(done), "SUCCEEDED", done.error.message)
        self.assertTrue(done.result.resumed, "its work was still there")
        self.assert_complete(place, self.reference("awd", "large", "9MB", ("m1", "m2", "m3")))

    def test_cancel_while_cancelling(self):
        client = self.held_server().client()
        job, place = self.running(client)
        client.cancel(job.name)
        # Whatever cleaning up needs is held next.
        self.gate.close(lambda request: request.kind in ("delete", "abort", "list"))
        job = client.wait_state(job.name, "CANCELLING", "CANCELLED")
        if state_of(job) == "CANCELLING":
            self.assertEqual(state_of(client.cancel(job.name)), "CANCELLING")
            self.fault(lambda: client.delete(job.name), "FAILED_PRECONDITION", "JOB_NOT_FINAL")
        self.gate.open()
        self.assertEqual(state_of(client.wait(job.name)), "CANCELLED")
        self.assert_nothing_at(place)

    def test_final_states(self):
        client = self.held_server().client()
        done = client.wait(client.create(document("average", self.small(), self.output("done"))).name)
        self.assertEqual(state_of(done), "SUCCEEDED")
        self.fault(lambda: client.cancel(done.name), "FAILED_PRECONDITION", "JOB_FINAL", "PreconditionFailure")
        # Failed: the output appears between submission and the end.
        _, place = self.running(client)
        late = client.create(document("average", self.small(), self.output("late")))
        os.makedirs(self.output("late"))
        with open(os.path.join(self.output("late"), "notes.txt"), "w", encoding="utf-8") as file:
            file.write("mine")
        follower = Follower(client, late.name)
        self.gate.open()
        failed = client.wait(late.name)
        self.assertEqual(state_of(failed), "FAILED")
        self.assertFalse(failed.retryable)
        info = pb().details.ErrorInfo()
        self.assertTrue(any(detail.Unpack(info) for detail in failed.error.details))
        self.assertIn(info.reason, ("OUTPUT_EXISTS", "OUTPUT_INCOMPLETE"))
        follower.check(self, first=None)
        told = follower.messages[-1][2].state_change.error
        self.assertEqual((told.code, told.message), (failed.error.code, failed.error.message))
        self.fault(lambda: client.cancel(late.name), "FAILED_PRECONDITION", "JOB_FINAL", "PreconditionFailure")
        found = client.list(filter=f"state = FAILED AND error.reason = {info.reason}").merge_jobs
        self.assertEqual([job.name for job in found], [late.name])
        with open(os.path.join(self.output("late"), "notes.txt"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "mine")

    def test_delete(self):
        client = self.held_server().client()
        running, _ = self.running(client)
        queued = client.create(document("average", self.small(), self.output("queued")))
        for job in (running, queued):
            self.fault(lambda job=job: client.delete(job.name), "FAILED_PRECONDITION", "JOB_NOT_FINAL",
                       "PreconditionFailure")
        stale = queued.etag
        self.gate.open()
        done = client.wait(queued.name)
        self.assertNotEqual(done.etag, stale)
        self.fault(lambda: client.delete(done.name, etag=stale), "ABORTED", "ETAG_MISMATCH")
        client.delete(done.name, etag=done.etag)
        self.fault(lambda: client.delete(done.name), "NOT_FOUND", "JOB_NOT_FOUND")
        self.assertTrue(os.path.exists(self.output("queued")), "the output stays")

    def test_etag(self):
        client = self.held_server().client()
        running, _ = self.running(client)
        queued = client.create(document("average", self.small(), self.output("queued")))
        self.fault(lambda: client.cancel(queued.name, etag='"no"'), "ABORTED", "ETAG_MISMATCH")
        self.assertEqual(state_of(client.cancel(queued.name, etag=queued.etag)), "CANCELLED")
        self.assertEqual(state_of(client.get(running.name)), "RUNNING")

    def test_queue_full(self):
        client = self.held_server(**{"jobs.max_queued": 3}).client()
        self.running(client)
        again = new_id()
        for number in range(2):
            spec = document("average", self.small(), self.output(f"q{number}"))
            client.create(spec, request_id=again if number == 1 else "")
        fault = self.fault(lambda: client.create(document("average", self.small(), self.output("q3"))),
                           "RESOURCE_EXHAUSTED", "QUEUE_FULL", "QuotaFailure", "RetryInfo")
        self.assertGreater(fault.details["RetryInfo"].retry_delay.ToMilliseconds(), 0)
        # A repeated request is no new job.
        self.assertEqual(client.create(spec, request_id=again).name, client.list(page_size=1).merge_jobs[0].name)

    def test_storage_that_does_not_answer(self):
        """Calls that wait for it end by their deadline, and beyond those that may wait there is no room."""
        client = self.held_server(**{"limits.call_deadline": "5s", "limits.planners": 1,
                                     "limits.max_planning": 1}).client()
        self.gate.close(lambda request: True)
        specs = [document("average", self.world.family_uri("small"), self.output(f"s{number}")) for number in range(3)]
        requests = [client.request(spec) for spec in specs]
        planned = client.stub.CreateMergeJob.future(requests[0])  # without a deadline of its own
        self.wait_held()
        waiting = client.stub.CreateMergeJob.future(requests[1])
        time.sleep(0.5)
        fault = self.fault(lambda: client.create(specs[2]), "UNAVAILABLE", "SERVER_UNAVAILABLE", "RetryInfo")
        self.assertIn("too many calls", fault.message)
        for call in (planned, waiting):
            self.fault(call.result, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        self.gate.open()
        self.assertEqual(len(client.list().merge_jobs), 0)

    def test_pages_of_large_specs(self):
        """A page is never larger than what clients take."""
        client = self.held_server().client()
        self.running(client)
        names = set()
        for number in range(14):
            spec = document("average", self.small(), self.output(f"l{number}"))
            spec.document.text += "# " + "x" * 500_000 + "\n"
            names.add(client.create(spec).name)
        pages, token = [], ""
        while True:
            page = client.list(page_size=1000, page_token=token)
            pages.append([job.name for job in page.merge_jobs])
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(len(sum(pages, [])), 15)
        self.assertLess(names, set(sum(pages, [])))
        self.assertGreater(len(pages), 1)

    def test_priority(self):
        client = self.held_server().client()
        self.running(client)
        order = []
        for number, priority in enumerate((0, 5, -5, 5)):
            job = client.create(document("average", self.small(), self.output(f"p{number}"), priority=priority))
            order.append((-priority, number, job.name))
        self.gate.open()
        starts = [(client.wait(name).start_time.ToNanoseconds(), name) for _, _, name in order]
        self.assertEqual([name for _, name in sorted(starts)], [name for _, _, name in sorted(order)])


class Requests(ServiceCase):
    def setUp(self):
        super().setUp()
        self.service = self.server(changes={"jobs.max_queued": 1000})
        self.client = self.service.client()

    def good(self, name="out", **fields):
        return document("average", self.small(), self.output(name), **fields)

    def test_request_id(self):
        client, request_id = self.client, new_id()
        first = client.create(self.good(), request_id=request_id, labels={"a": "1"})
        again = client.create(self.good(), request_id=request_id, labels={"a": "1"})
        self.assertEqual(again.name, first.name)
        client.wait(first.name)
        # The output exists by now: a new job would be refused, the repeated one is not.
        self.assertEqual(state_of(client.create(self.good(), request_id=request_id, labels={"a": "1"})), "SUCCEEDED")
        for other in (lambda: client.create(self.good("b"), request_id=request_id, labels={"a": "1"}),
                      lambda: client.create(self.good(), request_id=request_id, labels={"a": "2"}),
                      lambda: client.create(self.good(), request_id=request_id, labels={"a": "1"},
                                            merge_job_id="named")):
            self.fault(other, "ALREADY_EXISTS", "REQUEST_ID_CONFLICT", "ResourceInfo")
        self.assertEqual(len(client.list().merge_jobs), 1)
        fault = self.fault(lambda: client.create(self.good("c"), request_id="not a uuid"), "INVALID_ARGUMENT",
                           "USAGE", "BadRequest")
        self.assertEqual(fault.fields, ["request_id"])

    def test_request_id_at_once(self):
        """Many equal requests at the same moment make one job."""
        request = self.client.request(self.good(), request_id=new_id())
        calls = [self.client.stub.CreateMergeJob.future(request, timeout=30) for _ in range(24)]
        self.assertEqual(len({call.result().name for call in calls}), 1)
        self.assertEqual(len(self.client.list().merge_jobs), 1)

    def test_job_exists(self):
        self.client.create(self.good("a"), merge_job_id="mine")
        self.fault(lambda: self.client.create(self.good("b"), merge_job_id="mine"), "ALREADY_EXISTS", "JOB_EXISTS",
                   "ResourceInfo")
        for bad in ("Capital", "-dash", "dash-", "x" * 64, "dot.dot", "9lives", "a/b", "ünïcode"):
            with self.subTest(bad):
                fault = self.fault(lambda bad=bad: self.client.create(self.good("c"), merge_job_id=bad),
                                   "INVALID_ARGUMENT", "USAGE", "BadRequest")
                self.assertEqual(fault.fields, ["merge_job_id"])

    def test_names(self):
        for name in ("", "mergeJobs/x", f"{PARENT}/mergeJobs/", f"{PARENT}/jobs/x", f"{PARENT}/mergeJobs/x/y",
                     f"{PARENT}/mergeJobs/UPPER", "x" * 100000):
            for call in (self.client.get, self.client.cancel, self.client.delete, self.client.watch):
                with self.subTest(f"{name[:40]} {call.__name__}"):
                    fault = self.fault(lambda: call(name), "INVALID_ARGUMENT",  # pylint: disable=cell-var-from-loop
                                       "USAGE" if name else "MISSING_KEY", "BadRequest")
                    self.assertEqual(fault.fields, ["name"])
        for call in (self.client.get, self.client.cancel, self.client.delete, self.client.watch):
            self.fault(lambda: call(NAME + "none"), "NOT_FOUND", "JOB_NOT_FOUND",  # pylint: disable=cell-var-from-loop
                       "ResourceInfo")
            self.fault(lambda: call("tenants/other/mergeJobs/none"),  # pylint: disable=cell-var-from-loop
                       "PERMISSION_DENIED", "PERMISSION_DENIED")

    def test_page_tokens(self):
        client = self.client
        for number in range(4):
            client.create(self.good(f"o{number}"), labels={"n": str(number)})
        token = client.list(page_size=2).next_page_token
        self.assertRegex(token, r"^[A-Za-z0-9_-]+$")
        self.assertEqual(len(client.list(page_size=1, page_token=token).merge_jobs), 1, "another size is fine")
        for fields in ({"filter": "labels.n = 1"}, {"order_by": "create_time"}):
            self.fault(lambda fields=fields: client.list(page_size=2, page_token=token, **fields), "INVALID_ARGUMENT",
                       "INVALID_PAGE_TOKEN", "BadRequest")
        changed = ("A" if token[len(token) // 2] != "A" else "B")
        for bad in ("x", token + "x", token[:-3], token[:len(token) // 2] + changed + token[len(token) // 2 + 1:],
                    "=" * 20, "x" * 5000):
            with self.subTest(bad[:60]):
                self.fault(lambda bad=bad: client.list(page_size=2, page_token=bad), "INVALID_ARGUMENT",
                           "INVALID_PAGE_TOKEN", "BadRequest")
        self.fault(lambda: client.list(page_size=-1), "INVALID_ARGUMENT", "OUT_OF_RANGE", "BadRequest")
        self.assertEqual(len(client.list(page_size=1000000).merge_jobs), 4, "a large size is cut to the limit")
        # A token stays good when jobs come and go.
        client.create(self.good("late"))
        self.assertEqual(len(client.list(page_size=10, page_token=token).merge_jobs), 2)

    def test_filters(self):
        for bad in ("state", "state = ", "state = NO_SUCH_STATE", "colour = red", "priority = high", "(state = QUEUED",
                    "state = QUEUED)", "create_time > yesterday", "state ~ QUEUED", "labels. = x", "AND",
                    "state = QUEUED AND", '"state" = "QUEUED', "NOT", "state < RUNNING", "a" * 5000,
                    "(" * 40 + "priority = 1" + ")" * 40, " AND ".join(["priority = 1"] * 100)):
            with self.subTest(bad[:60]):
                fault = self.fault(lambda bad=bad: self.client.list(filter=bad), "INVALID_ARGUMENT", "INVALID_FILTER",
                                   "BadRequest")
                self.assertEqual(fault.fields, ["filter"])
        fault = self.fault(lambda: self.client.list(order_by="priority"), "INVALID_ARGUMENT", "USAGE", "BadRequest")
        self.assertEqual(fault.fields, ["order_by"])

    def test_resume_tokens(self):
        name = self.client.create(self.good()).name
        other = self.client.create(self.good("other")).name
        token = next(self.client.watch(other)).resume_token
        for bad in ("x", token + "AAAA", token, "=" * 100, "x" * 10000):
            with self.subTest(bad[:40]):
                self.fault(lambda bad=bad: self.client.watch(name, resume_token=bad), "INVALID_ARGUMENT",
                           "INVALID_RESUME_TOKEN", "BadRequest")
        # A job that was deleted, and a new one of its name.
        self.client.wait(other)
        token = list(self.client.watch(other))[-1].resume_token
        self.client.delete(other)
        self.client.create(self.good("again"), merge_job_id=other.rsplit("/", 1)[1])
        self.fault(lambda: self.client.watch(other, resume_token=token), "INVALID_ARGUMENT", "INVALID_RESUME_TOKEN",
                   "BadRequest")

    def test_specs(self):
        """Shape and values of the request."""
        recipe, job, client = pb().recipe, pb().job, self.client
        cases = [
            (job.MergeJobSpec(), "MISSING_KEY", "merge_job.spec"),
            (self.good(priority=101), "OUT_OF_RANGE", "merge_job.spec.priority"),
            (self.good(device="tpu"), "USAGE", "merge_job.spec.device"),
            (self.good(device="cuda:77"), "UNSUPPORTED", "merge_job.spec.device"),
            (self.good(memory_budget=-1), "OUT_OF_RANGE", "merge_job.spec.memory_budget"),
            (self.good(max_attempts=0), "OUT_OF_RANGE", "merge_job.spec.max_attempts"),
            (self.good(max_attempts=21), "OUT_OF_RANGE", "merge_job.spec.max_attempts"),
            (job.MergeJobSpec(document=recipe.RecipeDocument()), "MISSING_KEY", "merge_job.spec.document.text"),
            (job.MergeJobSpec(recipe=recipe.Recipe()), "MISSING_KEY", "merge_job.spec.recipe.method"),
        ]
        for spec, reason, field in cases:
            with self.subTest(f"{reason} {field}"):
                fault = self.fault(lambda spec=spec: client.create(spec), "INVALID_ARGUMENT", reason, "BadRequest")
                self.assertIn(field, fault.fields)
        fault = self.fault(lambda: client.create(self.good(priority=1000, max_attempts=99), merge_job_id="BAD"),
                           "INVALID_ARGUMENT", "USAGE", "BadRequest")
        self.assertEqual(set(fault.fields), {"merge_job.spec.priority", "merge_job.spec.max_attempts", "merge_job_id"})

    def test_labels(self):
        for labels in ({"Upper": "x"}, {"": "x"}, {"a" * 64: "x"}, {"a": "x" * 64}, {"9": "x"},
                       {f"k{i}": "v" for i in range(33)}):
            with self.subTest(str(labels)[:50]):
                fault = self.fault(lambda labels=labels: self.client.create(self.good(), labels=labels),
                                   "INVALID_ARGUMENT", "OUT_OF_RANGE" if len(labels) > 32 or "a" in labels else "USAGE",
                                   "BadRequest")
                self.assertTrue(all(field.startswith("merge_job.labels") for field in fault.fields), fault.fields)

    def test_faulty_documents(self):
        """All faults of a document in one answer, with line and column and field paths."""
        spec = self.good()
        spec.document.text = "method: tiez\nparameterz: {density: 3}\nmodels: []\noutput: {uri: 7}\n"
        fault = self.fault(lambda: self.client.create(spec), "INVALID_ARGUMENT", "UNKNOWN_METHOD", "BadRequest")
        violations = fault.details["BadRequest"].field_violations
        self.assertGreaterEqual(len(violations), 2, str(fault.details))
        self.assertTrue(any("merge.yaml:1" in violation.description for violation in violations), violations)
        spec.document.text = "method: [unclosed\n"
        self.fault(lambda: self.client.create(spec), "INVALID_ARGUMENT", "RECIPE_SYNTAX", "BadRequest")

    def test_many_faults_fit(self):
        """A document with thousands of faults: the first of them, and still under the limit."""
        spec = self.good()
        spec.document.text = "method: ties\n" + "".join(f"unknown_key_{i}_{'x' * 50}: {i}\n" for i in range(3000))
        fault = self.fault(lambda: self.client.create(spec), "INVALID_ARGUMENT", "MISSING_KEY", "BadRequest")
        self.assertGreaterEqual(len(fault.fields), 5)
        self.assertIn("left out", fault.message)
        name = "n" * 3000
        spec.document.text = f"method: '{name}'\nmodels: ['/{name}/a', '/{name}/b']\noutput: {{uri: '/{name}'}}\n"
        try:
            self.client.create(spec)
            self.fail("created")
        except pb().grpc.RpcError as error:
            fault = Fault(error)
            self.assertIsNotNone(fault.info, str(fault))
            self.assertLess(fault.size, 4096)

    def test_too_large(self):
        spec = self.good()
        spec.document.text += "# " + "x" * (600 * 1024) + "\n"
        self.fault(lambda: self.client.create(spec), "INVALID_ARGUMENT", "SPEC_TOO_LARGE", "BadRequest")
        spec.document.text += "# " + "x" * (8 << 20)
        with self.assertRaises(pb().grpc.RpcError) as caught:
            self.client.create(spec)
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")
        self.assertEqual(self.client.health(), "SERVING")

    def test_unknown_fields(self):
        """An option that this server does not know is refused, not forgotten."""
        request = self.client.request(self.good())
        for where in ("merge_job", "merge_job.spec", "merge_job.spec.document"):
            with self.subTest(where):
                changed = pb().service.CreateMergeJobRequest()
                changed.CopyFrom(request)
                part = changed
                for name in where.split("."):
                    part = getattr(part, name)
                part.MergeFromString(b"\xf8\x3f\x01")  # field 1023, varint 1
                fault = self.fault(lambda changed=changed: self.client.call("CreateMergeJob", changed),
                                   "INVALID_ARGUMENT", "UNKNOWN_FIELD", "BadRequest")
                self.assertEqual(fault.fields, [where])

    def test_deadlines(self):
        grpc = pb().grpc
        for call in (lambda: self.client.get(NAME + "x", timeout=0.000001),
                     lambda: self.client.create(self.good(), timeout=0.000001)):
            with self.assertRaises(grpc.RpcError) as caught:
                call()
            self.assertEqual(caught.exception.code().name, "DEADLINE_EXCEEDED")
        self.assertEqual(self.client.health(), "SERVING")

    def test_output_only_fields_are_left_out(self):
        request = self.client.request(self.good())
        request.merge_job.name, request.merge_job.state = "nonsense", pb().job.MergeJob.STATE_SUCCEEDED
        job = self.client.call("CreateMergeJob", request)
        self.assertNotEqual(job.name, "nonsense")
        self.assertIn(state_of(job), ("QUEUED", "RUNNING", "PUBLISHING"))


class Access(ServiceCase):
    def test_inputs_and_outputs(self):
        client = self.server().client()
        inputs, folder = self.small(), os.path.join(self.folder, "outputs")
        outside = os.path.join(self.folder, "private")
        models.write_folder(outside, models.synthetic(models.SMALL, 5))
        os.symlink(outside, os.path.join(folder, "link"))
        sibling = self.world.folder + "/inputs-not"
        for text, code, reason in (
                (f"{inputs}/none", "FAILED_PRECONDITION", "INPUT_NOT_FOUND"),
                (outside, "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                (outside + "-not-there", "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                (sibling, "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                ("/etc", "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                ("s3://another-bucket/model", "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                (f"s3://{self.s3.bucket}/inputs-not/x", "PERMISSION_DENIED", "URI_NOT_ALLOWED")):
            with self.subTest(text):
                spec = document("average", inputs, self.output())
                spec.document.text = spec.document.text.replace(f"{inputs}/m2", text)
                fault = self.fault(lambda spec=spec: client.create(spec), code, reason)
                if reason == "URI_NOT_ALLOWED":
                    self.assertNotIn("No such", fault.message)
        for output, code, reason in (
                (os.path.join(self.folder, "elsewhere"), "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                (f"{inputs}/new", "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                (os.path.join(folder, "link", "out"), "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                (f"{folder}/../elsewhere", "INVALID_ARGUMENT", None),
                (f"s3://{self.s3.bucket}/inputs/new", "PERMISSION_DENIED", "URI_NOT_ALLOWED"),
                ("s3://another-bucket/out", "PERMISSION_DENIED", "URI_NOT_ALLOWED")):
            with self.subTest(output):
                try:
                    client.create(document("average", inputs, output))
                    self.fail("created")
                except pb().grpc.RpcError as error:
                    fault = Fault(error)
                    self.assertIn(fault.code, (code, "PERMISSION_DENIED"), str(fault))
                    if reason:
                        self.assertEqual(fault.reason, reason)
        self.assertEqual(os.listdir(outside), ["model.safetensors"])

    def test_faulty_inputs(self):
        client = self.server().client()
        broken = os.path.join(self.world.folder, "inputs", "broken")
        if not os.path.exists(broken):
            shapes = [(name, dtype, (shape[0] + 1, *shape[1:]) if name == "blocks.0.weight" else shape)
                      for name, dtype, shape in models.SMALL]
            models.write_folder(os.path.join(broken, "shape"), models.synthetic(shapes, 7))
            os.makedirs(os.path.join(broken, "corrupt"))
            with open(os.path.join(broken, "corrupt", "model.safetensors"), "wb") as file:
                file.write(b"\x10\0\0\0\0\0\0\0{ not json at all")
            missing = models.synthetic(models.SMALL[1:], 7)
            models.write_folder(os.path.join(broken, "missing"), missing)
        for name, code, reason in (("shape", "INVALID_ARGUMENT", "SHAPE_MISMATCH"),
                                   ("corrupt", "FAILED_PRECONDITION", "INPUT_CORRUPT"),
                                   ("missing", "FAILED_PRECONDITION", "TENSOR_MISSING")):
            with self.subTest(name):
                spec = document("average", self.small(), self.output())
                spec.document.text = spec.document.text.replace(f"{self.small()}/m2", f"{broken}/{name}")
                fault = self.fault(lambda spec=spec: client.create(spec), code, reason)
                self.assertIn(name if name == "corrupt" else "blocks.0.weight", fault.message + str(fault.details))
        self.assertEqual(len(client.list().merge_jobs), 0)

    def test_relative_paths(self):
        client = self.server().client()
        spec = document("average", "inputs", self.output())
        fault = self.fault(lambda: client.create(spec), "INVALID_ARGUMENT", "USAGE", "BadRequest")
        self.assertEqual(len(fault.details["BadRequest"].field_violations), 3, "every path")
        self.assertIn("relative path", fault.message)
        spec.document.relative_to = os.path.join(self.world.folder, "inputs", "small", "..")
        spec.document.text = spec.document.text.replace("inputs/", "small/")
        self.small()
        spec.document.relative_to = os.path.join(self.world.folder, "inputs")
        self.assertEqual(state_of(client.wait(client.create(spec).name)), "SUCCEEDED")

    def test_output_exists(self):
        client = self.server().client()
        os.makedirs(self.output("taken"))
        with open(os.path.join(self.output("taken"), "model.safetensors"), "wb") as file:
            file.write(b"x")
        self.fault(lambda: client.create(document("average", self.small(), self.output("taken"))), "ALREADY_EXISTS",
                   "OUTPUT_EXISTS", "ResourceInfo")

    def test_too_little_memory(self):
        client = self.server().client()
        fault = self.fault(lambda: client.create(document("average", self.small(), self.output(), memory_budget=1)),
                           "FAILED_PRECONDITION", "BUDGET_TOO_SMALL", "PreconditionFailure")
        self.assertIn("MiB", fault.message)
        self.assertIn("merge_job.spec.memory_budget", fault.message)
        self.assertNotIn("--", fault.message, "no option of a command")


class Flood(HeldCase):
    def test_connections_that_say_nothing(self):
        """Open sockets that never speak change nothing for others."""
        import socket
        server = self.held_server()
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
        client = Client(server.port)
        self.addCleanup(client.close)
        begin = time.monotonic()
        job = client.wait(client.create(document("average", self.small(), self.output())).name)
        self.assertIn(state_of(job), FINAL)
        self.assertLess(time.monotonic() - begin, 10)
        for sock in sockets:
            sock.close()
