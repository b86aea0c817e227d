"""Starting: fast, closed by default, and a wrong configuration is refused at once by its key."""

import os
import signal
import socket
import subprocess
import time

from service import SERVICE, ServiceCase, document, free_ports, pb, state_of


class Start(ServiceCase):
    def refused_start(self, server, *texts, code=2, arguments=()):
        begin = time.monotonic()
        process = server.spawn(*arguments)
        try:
            status = process.wait(10)
        except subprocess.TimeoutExpired:
            self.fail(f"it serves: {server.log()[-1000:]}")
        seconds = time.monotonic() - begin
        log = server.log()
        self.assertEqual(status, code, log[-2000:])
        for text in texts:
            self.assertIn(text, log)
        self.assertFalse(os.path.exists(server.ready_path))
        self.assertLess(seconds, 5)
        return seconds

    def test_serving_soon(self):
        server = self.server(started=False)
        seconds = []
        for _ in range(3):
            server.start()
            client = server.client()
            self.assertEqual(client.health(SERVICE), "SERVING")
            client.close()  # one that is idle holds the server up until it looks at its connection
            seconds.append(server.seconds)
            self.assertEqual(server.stop(), 0, server.log()[-2000:])
        print(f"     serving after {', '.join(f'{value:.2f}' for value in seconds)} s", flush=True)
        self.assertLess(min(seconds), 2.0)

    def test_wrong_configuration(self):
        """Exit code 2 within a second, and the message has the key."""
        slowest = 0.0
        for number, (changes, text) in enumerate([
                ({"lisen": "127.0.0.1:1"}, "lisen"),
                ({"jobs.max_queue": 3}, "jobs.max_queue"),
                ({"jobs.max_queued": "many"}, "jobs.max_queued"),
                ({"jobs.max_queued": -1}, "jobs.max_queued"),
                ({"workers.devices": ["gpu"]}, "workers.devices"),
                ({"workers.memory_budget": "1 parsec"}, "workers.memory_budget"),
                ({"storage.read": ["ftp://host/"]}, "storage.read"),
                ({"listen": "127.0.0.1"}, "listen"),
                ({"listen": "127.0.0.1:99999"}, "listen"),
                ({"log.level": "loud"}, "log.level"),
                ({"authentication.token_file": "/does/not/exist"}, "authentication.token_file"),
                ({"tls.certificate": "/does/not/exist"}, "tls.key"),
                ({"tls.certificate": "/does/not/exist", "tls.key": "/nor/this"}, "tls.certificate")]):
            with self.subTest(text, changes=str(changes)):
                server = self.server(f"server{number}", changes, started=False)
                slowest = max(slowest, self.refused_start(server, text))
        print(f"     the slowest refusal took {slowest:.2f} s", flush=True)
        self.assertLess(slowest, 2.0)

    def test_no_yaml(self):
        server = self.server(started=False)
        with open(server.config_path, "w", encoding="utf-8") as file:
            file.write("listen: [127.0.0.1\n")
        self.refused_start(server, server.config_path)
        os.remove(server.config_path)
        self.refused_start(server, server.config_path)

    def test_closed_by_default(self):
        """No address but loopback without authentication or an explicit word."""
        port = free_ports(1)[0]
        for number, address in enumerate((f"0.0.0.0:{port}", f"[::]:{port}")):
            with self.subTest(address):
                server = self.server(f"server{number}", {"listen": address}, started=False)
                self.refused_start(server, "insecure", address.rsplit(":", 1)[0])
                with self.assertRaises(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
        server = self.server("flag", started=False)
        self.refused_start(server, "insecure", arguments=("--listen", f"0.0.0.0:{port}"))
        server = self.server("insecure", {"listen": f"0.0.0.0:{port}", "insecure": True})
        server.port = port
        self.assertEqual(server.client().health(), "SERVING")
        self.assertIn("0.0.0.0", server.log(), "a word of warning")

    def test_nothing_is_open_by_default(self):
        """Without lists no path and no bucket can be named."""
        server = self.server(changes={"storage.read": None, "storage.write": None})
        client = server.client()
        local = document("average", self.small(), self.output())
        bucket = document("average", self.world.family_uri("small"), f"s3://{self.s3.bucket}/{self.key}/out")
        for spec in (local, bucket):
            self.fault(lambda spec=spec: client.create(spec), "PERMISSION_DENIED", "URI_NOT_ALLOWED")

    def test_second_server_on_the_same_data(self):
        server = self.server()
        other = self.server("other", {"data_dir": server.data}, started=False)
        self.refused_start(other, server.data)
        self.assertEqual(server.client().health(SERVICE), "SERVING")

    def test_second_server_on_the_same_port(self):
        server = self.server()
        for key in ("listen", "health.listen", "metrics.listen"):
            with self.subTest(key):
                port = {"listen": server.port, "health.listen": server.health_port,
                        "metrics.listen": server.metrics_port}[key]
                other = self.server(f"other {key}", {key: f"127.0.0.1:{port}"}, started=False)
                self.refused_start(other, str(port), key, code=6)

    def test_flags_over_file(self):
        server = self.server(started=False)
        port = free_ports(1)[0]
        other_data = os.path.join(server.folder, "elsewhere")
        server.start("--listen", f"127.0.0.1:{port}", "--data-dir", other_data)
        server.port = port
        self.assertEqual(server.client().health(), "SERVING")
        self.assertTrue(os.path.isdir(other_data))
        self.assertFalse(os.path.exists(server.data))

    def test_roots_by_flag(self):
        server = self.server(changes={"storage.read": None, "storage.write": None}, started=False)
        os.makedirs(os.path.join(self.folder, "outputs"), exist_ok=True)
        server.start("--allow-read", self.small(), "--allow-write", os.path.join(self.folder, "outputs"))
        client = server.client()
        job = client.wait(client.create(document("average", self.small(), self.output())).name)
        self.assertEqual(state_of(job), "SUCCEEDED", job.error.message)

    def test_database_is_private_and_sound(self):
        server = self.server()
        client = server.client()
        client.wait(client.create(document("average", self.small(), self.output())).name)
        self.assertEqual(os.stat(server.data).st_mode & 0o077, 0, "others may not look")
        server.kill()
        self.check_database(server)

    def test_tokens(self):
        """With a token file the service wants a token, and tenants do not see each other."""
        import hashlib
        path = os.path.join(self.folder, "tokens")
        lines = [f"{hashlib.sha256(token.encode()).hexdigest()} {name} {tenant}\n"
                 for token, name, tenant in (("secret-a", "anna", "red"), ("secret-b", "ben", "blue"))]
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(lines)
        os.chmod(path, 0o600)
        server = self.server(changes={"authentication.token_file": path})
        grpc = pb().grpc
        for metadata in ([], [("authorization", "Bearer wrong")], [("authorization", "secret-a")]):
            with self.subTest(str(metadata)):
                client = server.client(metadata=metadata)
                self.fault(client.list, "UNAUTHENTICATED", "UNAUTHENTICATED")
        red = server.client(metadata=[("authorization", "Bearer secret-a")])
        blue = server.client(metadata=[("authorization", "Bearer secret-b")])
        request = red.request(document("average", self.small(), self.output()), merge_job_id="mine")
        request.parent = "tenants/red"
        job = red.call("CreateMergeJob", request)
        self.assertEqual(job.name, "tenants/red/mergeJobs/mine")
        for call in (lambda: blue.get(job.name), lambda: blue.cancel(job.name), lambda: blue.delete(job.name),
                     lambda: blue.watch(job.name)):
            fault = self.fault(call, "PERMISSION_DENIED", "PERMISSION_DENIED")
            other = "tenants/red/mergeJobs/there-is-none"
            same = self.fault(lambda: blue.get(other), "PERMISSION_DENIED", "PERMISSION_DENIED")
            self.assertEqual(fault.message.replace("mine", "?"), same.message.replace("there-is-none", "?"))
        self.assertEqual(state_of(red.wait(job.name)), "SUCCEEDED")
        self.assertNotIn("secret-", server.log())
        # A token that is added later counts without a restart.
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{hashlib.sha256(b'secret-c').hexdigest()} cara red\n")
        late = server.client(metadata=[("authorization", "Bearer secret-c")])

        def accepted():
            try:
                return late.get(job.name) is not None
            except grpc.RpcError:
                return False
        self.assertTrue(self.wait_for(accepted, seconds=15))

    def test_signals(self):
        server = self.server()
        for number in (signal.SIGTERM, signal.SIGINT):
            server.signal(number)
            self.assertEqual(server.process.wait(30), 0, server.log()[-1000:])
            server.start()


class Environment(ServiceCase):
    def test_no_endpoint_from_a_uri(self):
        client = self.server().client()
        for uri in (f"s3://{self.s3.bucket}/inputs/small/base?endpoint=http://127.0.0.1:1",
                    f"s3://user:password@{self.s3.bucket}/inputs/small", f"s3://{self.s3.bucket}:99/inputs/small",
                    f"s3://{self.s3.bucket}/inputs/../secret", "http://127.0.0.1/inputs/small",
                    f"s3://{self.s3.bucket}/inputs/small#fragment", f"s3://{self.s3.bucket}/inputs%2fsmall"):
            with self.subTest(uri):
                spec = document("average", self.small(), self.output())
                spec.document.text = spec.document.text.replace(f"{self.small()}/m1", f"'{uri}'")
                try:
                    client.create(spec)
                    self.fail("created")
                except pb().grpc.RpcError as error:
                    self.assertIn(error.code().name, ("INVALID_ARGUMENT", "PERMISSION_DENIED"), error.details())
