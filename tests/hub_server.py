"""A hub on this machine: serves files of models and datasets as huggingface_hub asks for them."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that downloads need: what is in a repository, and its files."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        found = re.fullmatch(
            r"(/api)?(?:/(models|datasets))?/([^/]+)/([^/]+)(?:/([^/]+))?(?:/([^/]+))?(?:/(.+))?", path
        )
        is_api, kind, owner, name, what, _, rest = found.groups() if found else (None,) * 7
        folder = self.server.folder / (kind or "models") / str(owner) / str(name)
        if owner == "gated":
            self.reply(403, headers={"X-Error-Code": "GatedRepo"})
        elif not folder.is_dir():
            self.reply(401, headers={"X-Error-Code": "RepoNotFound"})
        elif is_api and what in (None, "revision"):
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            self.reply(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": files}).encode())
        elif is_api and what == "tree" and rest is None:
            files = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT} for file in
                     sorted(folder.iterdir())]  # fmt: skip
            self.reply(200, json.dumps(files).encode())
        elif what == "resolve" and (folder / (rest or "none")).is_file():
            data = (folder / rest).read_bytes()
            self.reply(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        else:
            self.reply(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def reply(self, status, data=b"", headers=()):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        """Nothing is printed."""


@contextlib.contextmanager
def hub(folder: Path):
    """Serves `folder/models/OWNER/NAME/FILE` and `folder/datasets/…`; yields its address and the list of requests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
