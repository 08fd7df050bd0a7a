"""A W&B server on loopback that lets runs begin, then hangs, fails, or closes every connection."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RUN = {
    "id": "UnVu", "name": "run", "displayName": "run", "description": "", "config": "{}", "sweepName": None,
    "project": {"id": "p", "name": "neuralese", "entity": {"id": "e", "name": "me"}}, "historyLineCount": 0,
    "logLineCount": 0, "eventsLineCount": 0, "historyTail": "[]", "eventsTail": "[]", "summaryMetrics": "{}",
    "tags": [], "wandbConfig": "{}", "createdAt": "2026-01-01T00:00:00",
}  # fmt: skip
# What a run asks for before it begins.
ANSWERS = {
    "RunResumeStatus": {"model": {"id": "p", "name": "neuralese", "entity": {"id": "e", "name": "me"}, "bucket": None}},
    "UpsertBucket": {"upsertBucket": {"bucket": RUN, "inserted": True}},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "Viewer": {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
}


@contextmanager
def fake_wandb(fault, knows=tuple(ANSWERS)):
    """The address of a server that answers the queries it knows, and to all else does `fault`: hang, 500 or close."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
            asked = re.search(r"(?:query|mutation) (\w+)", body)
            if asked and asked.group(1) in knows:
                self.answer(200, {"data": ANSWERS[asked.group(1)]})
            elif fault == "500":
                self.answer(500, {})
            elif fault == "hang":
                over.wait()
                self.close_connection = True
            else:
                self.connection.close()

        do_GET = do_PUT = do_POST

        def answer(self, code, content):
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
