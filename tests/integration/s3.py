"""As much of S3 as these tests need, signed by hand, so that nothing of the program under test checks itself."""

import datetime
import hashlib
import hmac
import http.client
import os
import urllib.parse
import xml.etree.ElementTree as ElementTree


class S3Error(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body[:300]!r}")
        self.status = status


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class S3:
    """The bucket that scripts/with-s3 made."""

    def __init__(self, bucket):
        self.bucket = bucket
        self.host = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc
        self.region = os.environ.get("AWS_REGION", "us-east-1")
        self.key_id = os.environ["AWS_ACCESS_KEY_ID"]
        self.secret = os.environ["AWS_SECRET_ACCESS_KEY"]

    def request(self, method, key="", query=(), body=b"", headers=()):
        path = urllib.parse.quote(f"/{self.bucket}/{key}" if key else f"/{self.bucket}", safe="/-_.~")
        query_text = "&".join(f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}"
                              for k, v in sorted(query))
        now = datetime.datetime.now(datetime.timezone.utc)
        date, stamp = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        signed = {"host": self.host, "x-amz-content-sha256": digest, "x-amz-date": stamp, **dict(headers)}
        names = ";".join(sorted(signed))
        canonical = "\n".join([method, path, query_text, "".join(f"{k}:{signed[k]}\n" for k in sorted(signed)),
                               names, digest])
        scope = f"{date}/{self.region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key_bytes = _hmac(_hmac(_hmac(_hmac(b"AWS4" + self.secret.encode(), date), self.region), "s3"),
                          "aws4_request")
        signature = hmac.new(key_bytes, to_sign.encode(), hashlib.sha256).hexdigest()
        signed["authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.key_id}/{scope}, SignedHeaders={names}, "
                                   f"Signature={signature}")
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path + ("?" + query_text if query_text else ""), body=body, headers=signed)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise S3Error(answer.status, data)
        return data, dict((k.lower(), v) for k, v in answer.getheaders())

    def put(self, key, data):
        self.request("PUT", key, body=data)

    def get(self, key):
        return self.request("GET", key)[0]

    def metadata(self, key):
        return self.request("HEAD", key)[1]

    def delete(self, key):
        self.request("DELETE", key)

    def _pages(self, query, markers):
        extra = []
        while True:
            root = ElementTree.fromstring(self.request("GET", query=query + extra)[0])
            for node in root.iter():
                node.tag = node.tag.split("}")[-1]
            yield root
            if root.findtext("IsTruncated") != "true":
                return
            extra = [(ask, root.findtext(given)) for ask, given in markers if root.findtext(given)]

    def list(self, prefix=""):
        pages = self._pages([("list-type", "2"), ("prefix", prefix)], [("continuation-token", "NextContinuationToken")])
        return sorted(node.findtext("Key") for page in pages for node in page.findall("Contents"))

    def uploads(self, prefix=""):
        """Open multipart uploads as (key, id)."""
        pages = self._pages([("uploads", ""), ("prefix", prefix)],
                            [("key-marker", "NextKeyMarker"), ("upload-id-marker", "NextUploadIdMarker")])
        return sorted((node.findtext("Key"), node.findtext("UploadId"))
                      for page in pages for node in page.findall("Upload"))

    def start_upload(self, key):
        root = ElementTree.fromstring(self.request("POST", key, query=[("uploads", "")])[0])
        return next(node.text for node in root.iter() if node.tag.endswith("UploadId"))

    def abort(self, key, upload_id):
        self.request("DELETE", key, query=[("uploadId", upload_id)])

    def put_folder(self, folder, prefix):
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                self.put(f"{prefix}/{name}", file.read())

    def remove(self, prefix):
        for key, upload_id in self.uploads(prefix):
            self.abort(key, upload_id)
        for key in self.list(prefix):
            self.delete(key)
