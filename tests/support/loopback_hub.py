"""A small Hugging Face Hub on the loopback address: what huggingface_hub asks to make, fill and read a repository."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = hashlib.sha1(b"commit", usedforsecurity=False).hexdigest()


class LoopbackHub(ThreadingHTTPServer):
    """The server, with its repositories: files by name, and whether each is private."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.token = "hf_loopback"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The answers."""

    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: Any, code: int = 200) -> None:
        self.answer(code, json.dumps(content).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer_json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self.server.private[name] = asked.get("private", asked.get("visibility") == "private")
            self.answer_json({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer_json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif "/commit/" in self.path:
            name = self.path.split("/commit/")[0].removeprefix("/api/models/")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[name][line["value"]["path"]] = content
            self.answer_json({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer_json({"error": f"no answer to POST {self.path}"}, 404)

    def do_GET(self) -> None:
        about = re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/\w+)?(?:\?.*)?$", self.path)
        tree = re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path)
        file = re.match(rf"/([^/]+/[^/]+)/resolve/(?:main|{COMMIT})/([^?]+)", self.path)
        found = about or tree or file
        repository = self.server.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            self.answer_json({"error": f"no answer to GET {self.path}"}, 404)
        elif file:
            content = repository.get(file[2])
            etag = f'"{hashlib.sha1(content or b"", usedforsecurity=False).hexdigest()}"'
            self.answer(404 if content is None else 200, content or b"", ETag=etag, X_Repo_Commit=COMMIT)
        elif tree:
            oids = {name: hashlib.sha1(part, usedforsecurity=False).hexdigest() for name, part in repository.items()}
            files = [{"type": "file", "path": n, "size": len(p), "oid": oids[n]} for n, p in repository.items()]
            self.answer_json(files)
        else:
            siblings = [{"rfilename": name} for name in repository]
            self.answer_json({"_id": "1", "id": found[1], "modelId": found[1], "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """Serve a Hub in a thread."""
    with LoopbackHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
