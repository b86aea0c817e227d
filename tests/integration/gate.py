"""Jobs that stay where they are: a proxy in front of the S3 server holds chosen requests until it is told to go on."""

import threading
import time

import proxy
from service import ServiceCase, document
from support import environment


class Gate:
    """A policy of proxy.Proxy: holds requests until it is opened, or slows them down."""

    def __init__(self):
        self._changed = threading.Condition()
        self._match, self._action, self._turn = None, None, 0
        self.held, self.delay = 0, 0.0

    def close(self, match):
        with self._changed:
            self._match = match

    def open(self, action=None):
        """Lets what is held go on; with an action, that is what happens to it."""
        with self._changed:
            self._match, self._action = None, action
            self._turn += 1
            self._changed.notify_all()

    def __call__(self, request):
        if self.delay and request.kind in ("read", "part"):
            time.sleep(self.delay)
        with self._changed:
            if self._match is None or not self._match(request):
                return None
            turn = self._turn
            self.held += 1
            self._changed.wait_for(lambda: self._turn != turn)
            self.held -= 1
            return self._action


def writes(request):
    return request.kind in ("put", "part", "start upload", "complete")


class HeldCase(ServiceCase):
    """A server whose writes to the bucket can be held, so that jobs stay in any state."""

    def held_server(self, **changes):
        self.gate = Gate()
        self.proxy = self.enterContext(proxy.Proxy(environment()["AWS_ENDPOINT_URL"], self.gate))
        self.addCleanup(self.gate.open, proxy.RESET)
        return self.server(endpoint=self.proxy.url, changes=changes)

    def wait_held(self):
        self.wait_for(lambda: self.gate.held > 0)

    def running(self, client, name="held", match=writes):
        """A job that is RUNNING until the gate opens; nothing else runs meanwhile on its device."""
        self.gate.close(match)
        place = self.s3_place_at(name)
        job = client.create(document("average", self.small(), place.uri))
        self.wait_held()
        return client.wait_state(job.name, "RUNNING", "PUBLISHING"), place
