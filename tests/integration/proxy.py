"""A proxy between the program and the S3 server that fails on request.

It reads whole HTTP/1.1 requests, asks a policy what to do with each, and forwards with the Host header as it came,
because the signature covers it. A policy is a function from a Request to one of the actions below (None: PASS).
"""

import re
import socket
import struct
import threading
import urllib.parse

PASS = "pass"
RESET = "reset"                    # forget the request, reset the connection
RESET_AFTER = "reset after"        # the server carries it out, the answer is lost
UNAVAILABLE = "503"                # an answer of our own
UNAVAILABLE_AFTER = "503 after"    # the server carries it out, our answer says otherwise
CUT_RESET = "cut reset"            # half of the answer, then a reset
CUT_CLOSE = "cut close"            # half of the answer, then an orderly end
SHORT = "short"                    # half of the body with a Content-Length that fits it
DENIED = "denied"                  # 403, of our own
HALF_SENT = "half sent"            # half of the request's body reaches the server, then resets on both sides

_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'


class Request:
    def __init__(self, method, target, headers):
        self.method, self.target, self.headers = method, target, headers
        parts = urllib.parse.urlsplit(target)
        self.path = urllib.parse.unquote(parts.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))

    @property
    def key(self):
        return self.path.split("/", 2)[2] if self.path.count("/") >= 2 else ""

    @property
    def kind(self):
        upload = "uploadId" in self.query
        if self.method == "POST":
            return "complete" if upload else "start upload"
        if self.method == "PUT":
            return "part" if upload else "put"
        if self.method == "DELETE":
            return "abort" if upload else "delete"
        if self.method == "GET" and ("list-type" in self.query or "uploads" in self.query):
            return "list"
        return "read" if self.method == "GET" else self.method.lower()


def _reset(sock):
    # Zero linger: the other side sees a reset instead of an end.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Proxy:
    def __init__(self, endpoint, policy=lambda request: PASS):
        split = urllib.parse.urlsplit(endpoint)
        self._server = (split.hostname, split.port)
        self.policy = policy
        self.before_reset = lambda: None  # called when the server has answered and the client has not heard of it
        self.counts = {}  # action -> how often it was applied
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:  # close alone does not wake a thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with client.makefile("rb") as stream:
                while self._one(client, stream):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            client.close()

    def _one(self, client, stream):
        head = self._head(stream)
        if head is None:
            return False
        line, headers = head
        method, target, _ = line.split(" ")
        request = Request(method, target, headers)
        if headers.pop("expect", ""):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = stream.read(int(headers.get("content-length", "0")))
        action = self.policy(request) or PASS
        with self._lock:
            self.counts[action] = self.counts.get(action, 0) + 1
        if action == RESET:
            _reset(client)
            return False
        if action == UNAVAILABLE:
            return self._answer_unavailable(client, method)
        if action == DENIED:
            return self._answer(client, method, "403 Forbidden", "AccessDenied", "Access Denied")
        if action == HALF_SENT:
            server = socket.create_connection(self._server, timeout=60)
            server.sendall(self._bytes_of(line, headers) + body[: len(body) // 2])
            _reset(server)
            _reset(client)
            return False
        status, answer_headers, answer = self._forward(line, headers, body, method)
        if action == UNAVAILABLE_AFTER:
            return self._answer_unavailable(client, method)
        if action == RESET_AFTER:
            self.before_reset()
            _reset(client)
            return False
        if action == SHORT and answer:
            answer = answer[: (len(answer) + 1) // 2]
            answer_headers["content-length"] = str(len(answer))
        data = self._bytes_of(status, answer_headers) + answer
        if action in (CUT_RESET, CUT_CLOSE):
            client.sendall(data[: len(data) - (len(answer) + 1) // 2])
            if action == CUT_RESET:
                _reset(client)
            else:
                client.shutdown(socket.SHUT_RDWR)
            return False
        client.sendall(data)
        return True

    @staticmethod
    def _head(stream):
        line = stream.readline().decode("latin-1").strip()
        if not line:
            return None
        headers = {}
        while True:
            text = stream.readline().decode("latin-1")
            if text in ("\r\n", "\n", ""):
                return line, headers
            name, _, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()

    @staticmethod
    def _bytes_of(line, headers):
        return (line + "\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode("latin-1")

    def _answer_unavailable(self, client, method):
        return self._answer(client, method, "503 Service Unavailable", "ServiceUnavailable", "try again later")

    def _answer(self, client, method, status, code, message):
        body = _ERROR.format(code, message).encode()
        headers = {"content-type": "application/xml", "content-length": str(len(body))}
        client.sendall(self._bytes_of("HTTP/1.1 " + status, headers) + (b"" if method == "HEAD" else body))
        return True

    def _forward(self, line, headers, body, method):
        headers = {**headers, "connection": "close"}
        with socket.create_connection(self._server, timeout=60) as server:
            # A server may answer before it has read the body, and close: it is listened to meanwhile.
            threading.Thread(target=self._send, args=(server, self._bytes_of(line, headers) + body), daemon=True).start()
            with server.makefile("rb") as stream:
                while True:
                    status, answer_headers = self._head(stream)
                    if not re.match(r"HTTP/1\.[01] 1\d\d", status):
                        break
                if method == "HEAD" or status.split(" ")[1] in ("204", "304"):
                    body = b""
                elif "content-length" in answer_headers:
                    body = stream.read(int(answer_headers["content-length"]))
                elif answer_headers.pop("transfer-encoding", "") == "chunked":
                    body = self._chunks(stream)
                    answer_headers["content-length"] = str(len(body))
                else:
                    body = stream.read()
                    answer_headers["content-length"] = str(len(body))
        answer_headers.pop("connection", None)
        return status, answer_headers, body

    @staticmethod
    def _send(server, data):
        try:
            server.sendall(data)
        except OSError:
            pass

    @staticmethod
    def _chunks(stream):
        data = b""
        while True:
            size = int(stream.readline().split(b";")[0], 16)
            data += stream.read(size)
            stream.readline()
            if size == 0:
                return data
