"""A server of files on this machine that cuts, stalls, refuses and lies."""

import contextlib
import http.server
import re
import time


def serve(body, cut=None, ranges=True, if_range=True, chunked=False, step=1000, pause=0.0, fast=0, **headers):
    """Build an answer with a body: a function of the request handler.

    `cut` closes the connection after that many bytes; a server without `ranges` or `if_range` ignores that header of
    a request; each `step` of bytes after the first `fast` ones waits `pause` seconds; `headers` (ETag, Last_Modified,
    Content_Length, Content_Range with {start}, {last}, {size}) replace the true ones, None omits one.
    """

    def answer(handler):
        validators = {"ETag": '"first"', **headers}
        requested = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if ranges else None
        validator = handler.headers.get("If-Range") if if_range else None
        is_same = validator in (None, validators["ETag"], headers.get("Last_Modified"))
        start = int(requested[1]) if requested and is_same else 0
        if start >= len(body):
            refuse(416)(handler)
            return
        sent = validators if chunked else {"Content_Length": len(body) - start, **validators}
        if start:
            sent = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}", **sent}
        if chunked:
            sent["Transfer_Encoding"] = "chunked"
        handler.send_response(206 if start else 200)
        for header, value in sent.items():
            if value is not None and (start or header != "Content_Range"):
                value = str(value).format(start=start, last=len(body) - 1, size=len(body))
                handler.send_header(header.replace("_", "-"), value)
        handler.end_headers()
        stop = min(len(body), start + cut) if cut else len(body)
        for position in range(start, stop, step):
            time.sleep(pause if position >= start + fast else 0)
            block = body[position : min(position + step, stop)]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
        if chunked and not cut:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return answer


def refuse(code, **headers):
    """Build an answer without a file."""

    def answer(handler):
        handler.send_response(code)
        for name, value in {"Content-Length": 0, **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()

    return answer


def stall(handler):
    time.sleep(3)
    handler.close_connection = True


def trickle_header(handler):
    with contextlib.suppress(OSError):
        for number in range(60):
            handler.wfile.write(b"x" if number else b"HTTP/1.1 200 OK\r\nX: ")
            time.sleep(0.05)
    handler.close_connection = True


def babble(handler):
    """Answer with something that is not HTTP, and no good in a terminal."""
    handler.wfile.write(bytes(range(256)) * 10)
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        script = self.server.script
        with contextlib.suppress(OSError):
            (script.pop(0) if len(script) > 1 else script[0])(self)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Server that answers from its script in turn, repeats the last answer and records the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.script = [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def starts(self):
        """Return the first byte of each request."""
        return [int(headers.get("Range", "bytes=0-")[6:-1]) for _, headers in self.requests]
