"""A server under test and a client for it, made from proto/ by protoc; nothing of the program checks itself."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import uuid

import support
from support import TestCase

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.join(HERE, "..", "..", "proto")
PARENT = "tenants/default"
SERVICE = "orthomerge.v1.MergeService"
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
DURABLE = ("state_change", "metrics", "warning")
DETAILS_LIMIT = 4096


def make_stubs(folder):
    """Generates Python code for all of proto/, makes it importable and returns its folder."""
    out = os.path.join(folder, "stubs")
    os.makedirs(out)
    files = [os.path.relpath(os.path.join(root, name), PROTO)
             for root, _, names in os.walk(PROTO) for name in names if name.endswith(".proto")]
    subprocess.run(["protoc", "-I.", f"--python_out={out}", f"--grpc_out={out}",
                    "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin", *files], cwd=PROTO, check=True)
    sys.path.append(out)
    return out


def pb():
    """The generated modules under one name; the stubs exist once the tests run."""
    from types import SimpleNamespace
    import grpc
    from google.rpc import error_details_pb2, status_pb2
    from orthomerge.v1 import merge_job_event_pb2, merge_job_pb2, merge_service_pb2, merge_service_pb2_grpc, recipe_pb2
    return SimpleNamespace(grpc=grpc, status=status_pb2, details=error_details_pb2, job=merge_job_pb2,
                           event=merge_job_event_pb2, service=merge_service_pb2, stub=merge_service_pb2_grpc,
                           recipe=recipe_pb2)


def tool(name):
    path = os.path.join(HERE, "..", "..", "build", "tools", name)
    if not os.access(path, os.X_OK):
        raise AssertionError(f"build/tools/{name} is not there; install it: scripts/install-test-tools {name}")
    return os.path.abspath(path)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Fault:
    """An error of a call, with what its trailing metadata says."""

    def __init__(self, error):
        self.code, self.message = error.code().name, error.details()
        raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        self.size = len(raw)
        self.details, self.kinds = {}, []
        for packed in pb().status.Status.FromString(raw).details:
            kind = packed.type_url.rsplit(".", 1)[-1]
            message = getattr(pb().details, kind)()
            packed.Unpack(message)
            self.details[kind] = message
            self.kinds.append(kind)

    @property
    def info(self):
        return self.details.get("ErrorInfo")

    @property
    def reason(self):
        return self.info.reason if self.info else None

    @property
    def fields(self):
        return [violation.field for violation in getattr(self.details.get("BadRequest"), "field_violations", ())]

    def __str__(self):
        return f"{self.code} {self.reason} {self.message!r} {sorted(self.kinds)} ({self.size} bytes)"


def state_of(job):
    return pb().job.MergeJob.State.Name(job.state).removeprefix("STATE_")


class Client:
    """Plain calls, no retries of gRPC's own."""

    def __init__(self, port, metadata=(), options=()):
        self.grpc = pb().grpc
        self.metadata = list(metadata)
        self.channel = self.grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1),
                                          ("grpc.initial_reconnect_backoff_ms", 50),
                                          # How long connecting may take: a busy machine needs a moment.
                                          ("grpc.min_reconnect_backoff_ms", 3000),
                                          ("grpc.max_reconnect_backoff_ms", 200), *options])
        self.stub = pb().stub.MergeServiceStub(self.channel)
        self.closed = False

    def close(self):
        self.channel.close()
        self.closed = True

    def reconnect(self):
        """After a restart: the first calls still meet the dead connection, or a channel that waits to try again."""
        end = time.monotonic() + 10
        while not self.closed and time.monotonic() < end:
            try:
                self.health()
                return
            except self.grpc.RpcError:
                time.sleep(0.01)

    def call(self, method, request, timeout=20):
        return getattr(self.stub, method)(request, timeout=timeout, metadata=self.metadata)

    def request(self, spec, merge_job_id="", request_id="", labels=None, validate_only=False):
        job = pb().job.MergeJob(spec=spec, labels=labels or {})
        return pb().service.CreateMergeJobRequest(parent=PARENT, merge_job_id=merge_job_id, merge_job=job,
                                                  request_id=request_id, validate_only=validate_only)

    def create(self, spec, timeout=20, **fields):
        return self.call("CreateMergeJob", self.request(spec, **fields), timeout)

    def get(self, name, timeout=20):
        return self.call("GetMergeJob", pb().service.GetMergeJobRequest(name=name), timeout)

    def list(self, **fields):
        return self.call("ListMergeJobs", pb().service.ListMergeJobsRequest(parent=PARENT, **fields))

    def cancel(self, name, **fields):
        return self.call("CancelMergeJob", pb().service.CancelMergeJobRequest(name=name, **fields))

    def delete(self, name, **fields):
        return self.call("DeleteMergeJob", pb().service.DeleteMergeJobRequest(name=name, **fields))

    def watch(self, name, timeout=120, **fields):
        request = pb().service.WatchMergeJobRequest(name=name, **fields)
        return self.stub.WatchMergeJob(request, timeout=timeout, metadata=self.metadata)

    def wait_state(self, name, *states, seconds=60):
        """Polls until the job is in one of these states."""
        end = time.monotonic() + seconds
        while True:
            job = self.get(name)
            if state_of(job) in states:
                return job
            if state_of(job) in FINAL or time.monotonic() > end:
                raise AssertionError(f"{name} is {state_of(job)}, wanted {states}: {job.error.message}")
            time.sleep(0.01)

    def wait(self, name, seconds=60):
        return self.wait_state(name, *FINAL, seconds=seconds)

    def health(self, service="", timeout=5):
        """grpc.health.v1: "SERVING", "NOT_SERVING"; the request and the answer have one field each."""
        text = service.encode()
        call = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = call(bytes([10, len(text)]) + text if text else b"", timeout=timeout)
        return {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}.get(answer, answer)


def document(method, inputs, output, models_used=("m1", "m2"), shard=None, base="base", **fields):
    """A spec that holds a recipe as text; `method` is a key of METHODS or the first lines of a recipe."""
    text = support.METHODS.get(method, method)
    if base:
        text += f"base: {inputs}/{base}\n"
    text += "models:\n" + "".join(f"  - {inputs}/{model}\n" for model in models_used)
    text += f"output: {{uri: {output}" + (f", max_shard_size: {shard}" if shard else "") + "}\n"
    return pb().job.MergeJobSpec(document=pb().recipe.RecipeDocument(text=text, file_name="merge.yaml"), **fields)


def new_id():
    return str(uuid.uuid4())


class Server:
    """`orthomerged serve`; every start has the same ports, configuration and data."""

    def __init__(self, folder, read, write, endpoint, changes=None):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.port, self.health_port, self.metrics_port = free_ports(3)
        self.data = os.path.join(folder, "data")
        self.log_path = os.path.join(folder, "server.log")
        self.config_path = os.path.join(folder, "config.yaml")
        self.config = {
            "listen": f"127.0.0.1:{self.port}",
            "health": {"listen": f"127.0.0.1:{self.health_port}"},
            "metrics": {"listen": f"127.0.0.1:{self.metrics_port}"},
            "data_dir": self.data,
            # Credentials come from the environment.
            "storage": {"read": read, "write": write,
                        "s3": [{"name": "test", "buckets": ["*"], "endpoint": endpoint}]},
        }
        self.configure(changes or {})
        self.environment = {"AWS_ENDPOINT_URL": None}
        self.process, self.clients, self.seconds = None, [], None

    def configure(self, changes):
        """Takes {"a.b": value}; JSON is YAML."""
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = self.config
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        with open(self.config_path, "w", encoding="utf-8") as file:
            json.dump(self.config, file, indent=1)

    def spawn(self, *arguments):
        """Starts without waiting."""
        self.ready_path = os.path.join(self.folder, "ready")
        if os.path.exists(self.ready_path):
            os.remove(self.ready_path)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [support.WORLD.server, "serve", "--config", self.config_path, "--ready-file", self.ready_path,
                 *arguments], env=support.environment(self.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.process

    def start(self, *arguments, timeout=30, reconnect=True):
        begin = time.monotonic()
        self.spawn(*arguments)
        while not os.path.exists(self.ready_path):
            if self.process.poll() is not None or time.monotonic() - begin > timeout:
                raise AssertionError(f"the server did not start (exit {self.process.poll()}): {self.log()[-2000:]}")
            time.sleep(0.002)
        self.seconds = time.monotonic() - begin
        for client in self.clients if reconnect else ():
            client.reconnect()
        return self

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def client(self, **options):
        client = Client(self.port, **options)
        self.clients.append(client)
        return client

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=60):
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def close(self):
        for client in self.clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()

    def memory(self, which="VmRSS"):
        """Resident bytes; VmHWM: at most so far."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            return int(re.search(which + r":\s+(\d+) kB", file.read())[1]) * 1024

    def metrics(self):
        """{'name{labels}': value}"""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


class Follower(threading.Thread):
    """Watches a job to its end, over as many streams as that takes."""

    def __init__(self, client, name, patience=120, min_interval=None):
        super().__init__(daemon=True)
        self.client, self.name, self.patience = client, name, patience
        self.streams, self.messages, self.faults, self.problems = 0, [], [], []
        self.final = None  # name of the state that ended it
        self.fields = {"min_interval": min_interval} if min_interval else {}
        self.ended = threading.Event()
        self.start()

    def run(self):
        token, end = "", time.monotonic() + self.patience
        try:
            while self.final is None and time.monotonic() < end:
                token = self._stream(token, end)
        except Exception as error:  # pylint: disable=broad-except
            self.problems.append(f"{type(error).__name__}: {error}")
        finally:
            self.ended.set()

    def _stream(self, token, end):
        self.streams += 1
        last = None
        try:
            for message in self.client.watch(self.name, timeout=max(0.1, end - time.monotonic()),
                                             resume_token=token, **self.fields):
                kind = message.WhichOneof("event")
                if self.final is not None:
                    self.problems.append(f"{kind} after the final state")
                self.messages.append((time.time(), kind, message))
                token, last = message.resume_token, kind
                if kind in ("snapshot", "state_change"):
                    state = state_of(getattr(message, kind))
                    self.final = state if state in FINAL else None
        except self.client.grpc.RpcError as error:
            if error.code().name not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"):
                raise
            self.faults.append(error.code().name)
            time.sleep(0.1)
            return token
        if self.final is None and last != "reconnect":
            self.problems.append(f"a stream ended with {last}, neither final nor a reconnect")
        return token

    def kinds(self):
        return [kind for _, kind, _ in self.messages]

    def states(self):
        return [state_of(message.state_change) for _, kind, message in self.messages if kind == "state_change"]

    def check(self, test, first=1):
        """Every durable event once and in order, one end."""
        test.assertTrue(self.ended.wait(self.patience), f"{self.name}: still watching")
        test.assertEqual(self.problems, [], self.name)
        test.assertIsNotNone(self.final, f"{self.name}: no final state; streams {self.streams}, {self.faults[-3:]}")
        test.assertEqual(self.messages[0][1], "snapshot")
        test.assertEqual([kind for kind in self.kinds() if kind == "snapshot"], ["snapshot"], "one snapshot")
        test.assertFalse(any(message.gap for _, _, message in self.messages))
        begin = self.messages[0][2].sequence
        if first is not None:
            test.assertEqual(begin, first)
        numbers = [message.sequence for _, kind, message in self.messages if kind in DURABLE]
        test.assertEqual(numbers, list(range(begin + 1, begin + 1 + len(numbers))), f"{self.name}: {self.kinds()}")
        for (_, _, before), (_, kind, message) in zip(self.messages, self.messages[1:]):
            if kind not in DURABLE:
                test.assertEqual(message.sequence, before.sequence, f"{kind} has the number of the event before")
        ends = [state for state in self.states() if state in FINAL]
        test.assertEqual(len(ends) + (state_of(self.messages[0][2].snapshot) in FINAL), 1, "one end")


class ServiceCase(TestCase):
    """A test with servers; `inputs` may be read, the test's own folder and keys may be written."""

    def server(self, name="server", changes=None, endpoint=None, started=True):
        bucket = f"s3://{self.s3.bucket}"
        server = Server(os.path.join(self.folder, name), read=[os.path.join(self.world.folder, "inputs"),
                                                               f"{bucket}/inputs/"],
                        write=[os.path.join(self.folder, "outputs"), f"{bucket}/{self.key}/"],
                        endpoint=endpoint or os.environ["AWS_ENDPOINT_URL"], changes=changes)
        for folder in (os.path.join(self.folder, "outputs"), os.path.join(self.world.folder, "inputs")):
            os.makedirs(folder, exist_ok=True)
        self.addCleanup(server.close)
        return server.start() if started else server

    def output(self, name="out"):
        return self.local_place_at(name).uri

    def local_place_at(self, name):
        """A place in a folder of its own, so that what is left beside it is seen."""
        return support.LocalPlace(os.path.join(self.folder, "outputs", name))

    def s3_place_at(self, name):
        return support.S3Place(f"{self.key}/{name}")

    def small(self):
        return self.world.family("small")

    def run_as_job(self, text):
        """A recipe as a job that succeeds: its output's place and the job."""
        client, place = self.server().client(), self.local_place_at("job")
        recipe = pb().recipe.RecipeDocument(text=text, file_name="merge.yaml", output_uri=place.uri)
        job = client.wait(client.create(pb().job.MergeJobSpec(document=recipe)).name)
        self.assertEqual(state_of(job), "SUCCEEDED", str(job.error))
        return place, job

    def fault(self, call, code, reason, *kinds):
        """The call fails as it ought to; the details beside ErrorInfo are at least `kinds`."""
        try:
            answer = call()
            if hasattr(answer, "code") and hasattr(answer, "__next__"):
                answer = next(answer)
        except pb().grpc.RpcError as error:
            fault = Fault(error)
        else:
            return self.fail(f"no error, but {str(answer)[:200]}")
        self.assertEqual((fault.code, fault.reason), (code, reason), str(fault))
        self.assertEqual(fault.info.domain, "orthomerge")
        self.assertEqual(len(set(fault.kinds)), len(fault.kinds), "each type of detail once")
        self.assertLess(fault.size, DETAILS_LIMIT, str(fault)[:300])
        self.assertNotEqual(fault.message, "")
        for kind in kinds:
            self.assertIn(kind, fault.kinds, str(fault))
        return fault

    def check_database(self, server):
        for root, _, files in os.walk(server.data):
            for name in files:
                if name.endswith((".db", ".sqlite", ".sqlite3")):
                    with sqlite3.connect(os.path.join(root, name)) as database:
                        self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                    return
        self.fail("no database")

    def reference(self, method, family="small", shard=None, models_used=("m1", "m2")):
        """Digests of what a run of one command writes."""
        return self.world.reference(self, method, family, shard, models_used)
