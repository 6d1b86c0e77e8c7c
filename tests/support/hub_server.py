"""A Hub of one dataset, `owner/name`, on this machine: what the library `datasets` asks it for a stream."""

import http.server
import json
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
FOLDER = "data"


class Hub(http.server.ThreadingHTTPServer):
    """A server of files of the dataset's folder; `requests` are the paths that were asked for."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {f"{FOLDER}/{name}": data for name, data in files.items()}, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers of the Hub's API, and files or ranges of them."""

    def log_message(self, *_):
        pass

    def send(self, code, body, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, files = unquote(urlsplit(self.path).path), self.server.files
        self.server.requests.append(path)
        resolved = path.partition(f"/datasets/owner/name/resolve/{COMMIT}/")[2]
        if path.startswith("/api/datasets/owner/name/tree/"):
            entries = [{"type": "directory", "path": FOLDER, "oid": COMMIT, "size": 0}]
            if path.endswith(f"/{FOLDER}"):
                entries = [{"type": "file", "path": name, "oid": COMMIT, "size": len(files[name])} for name in files]
            self.send(200, json.dumps(entries).encode())
        elif path.startswith("/api/datasets/owner/name"):
            info = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "tags": []}
            self.send(200, json.dumps(info).encode())
        elif resolved in files:
            data = files[resolved]
            start, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = data[int(start) : int(last) + 1 if last else None]
            span = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
            code, headers = (206, {"Content_Range": span}) if "Range" in self.headers else (200, {})
            self.send(code, part, ETag=f'"{COMMIT}"', X_Repo_Commit=COMMIT, **headers)
        else:
            self.send(404, b"", X_Error_Code="EntryNotFound")
