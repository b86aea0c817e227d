"""S3 that cannot be used at all: credentials, endpoints, buckets."""

import socket

import proxy as faults
from support import TestCase, cli


class BadStorage(TestCase):
    def setUp(self):
        super().setUp()
        self.local, self.remote = self.world.family("small"), self.world.family_uri("small")

    def check(self, reason, code, *texts, env=None, out=None):
        """The same answer for inputs on S3 and for an output there."""
        local, remote = self.local_place(), self.s3_place()
        self.refused(cli("run", self.recipe("average", self.remote), "--out", local.uri, "-o", "json", env=env),
                     reason, code, *texts)
        self.assert_nothing_at(local)
        self.refused(cli("run", self.recipe("average", self.local), "--out", remote.uri, "-o", "json", env=env),
                     reason, code, *texts)
        self.assert_nothing_at(remote)
        self.assertEqual(local.debris(), [])

    def test_wrong_secret(self):
        self.check("CREDENTIALS_REJECTED", 7, "AWS_SECRET_ACCESS_KEY",
                   env={"AWS_SECRET_ACCESS_KEY": "0123456789abcdef"})

    def test_wrong_key(self):
        self.check("CREDENTIALS_REJECTED", 7, "AWS_ACCESS_KEY_ID", env={"AWS_ACCESS_KEY_ID": "nobody-we-know"})

    def test_secret_is_not_shown(self):
        secret = "a-very-secret-text"
        result = cli("run", self.recipe("average", self.remote), "--out", self.local_place().uri, "-o", "json",
                     env={"AWS_SECRET_ACCESS_KEY": secret})
        self.assertNotIn(secret, result.out + result.err)

    def test_no_credentials(self):
        self.check("CREDENTIALS_MISSING", 7, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                   env={"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None})

    def test_dead_endpoint(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.check("STORAGE_UNAVAILABLE", 6, "after 2 attempts", f"127.0.0.1:{port}",
                   env={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_MAX_ATTEMPTS": "2"})

    def test_server_always_busy(self):
        with faults.Proxy(f"http://{self.s3.host}", lambda request: faults.UNAVAILABLE) as proxy:
            self.check("STORAGE_UNAVAILABLE", 6, "503", "after 2 attempts",
                       env={"AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "2"})

    def test_bad_endpoint(self):
        self.check("USAGE", 2, "AWS_ENDPOINT_URL", env={"AWS_ENDPOINT_URL": "no endpoint"})

    def test_bad_attempts(self):
        self.check("USAGE", 2, "AWS_MAX_ATTEMPTS", env={"AWS_MAX_ATTEMPTS": "some"})

    def test_missing_bucket(self):
        place = self.local_place()
        recipe = self.recipe("average", "s3://no-such-bucket/models")
        result = cli("run", recipe, "--out", place.uri, "-o", "json")
        self.refused(result, "INPUT_NOT_FOUND", 3, "no-such-bucket")
        self.assert_nothing_at(place)
        output = cli("run", self.recipe("average", self.local), "--out", "s3://no-such-bucket/out", "-o", "json")
        self.refused(output, "INPUT_NOT_FOUND", 3, "no-such-bucket")

    def test_missing_object(self):
        recipe = self.recipe("average", self.remote, models_used=("m1", "none"))
        result = cli("run", recipe, "--out", self.local_place().uri, "-o", "json")
        self.refused(result, "INPUT_NOT_FOUND", 3, f"{self.remote}/none")

    def test_truncated_object(self):
        with open(f"{self.local}/m1/model.safetensors", "rb") as file:
            self.s3.put(f"{self.key}/model.safetensors", file.read()[:-5])
        recipe = self.write(f"method: average\nmodels: [{self.remote}/m1, s3://{self.s3.bucket}/{self.key}]\n")
        place = self.local_place()
        self.refused(cli("run", recipe, "--out", place.uri, "-o", "json"), "INPUT_CORRUPT", 3,
                     f"{self.key}/model.safetensors")
        self.assert_nothing_at(place)

    def test_whole_bucket_as_output(self):
        before = self.s3.list()
        bucket = f"s3://{self.s3.bucket}"
        for command in (["run", self.recipe("average", self.local), "--out", bucket], ["clean", bucket]):
            self.refused(cli(*command, "-o", "json"), "USAGE", 2, bucket, "cannot be an output")
        self.assertEqual(self.s3.list(), before)

    def test_credentials_only_where_needed(self):
        """Local merges ask for none."""
        self.run_ok(self.recipe("average", self.local), "--out", self.local_place().uri,
                    env={"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_ENDPOINT_URL": None})
