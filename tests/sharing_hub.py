"""A stand-in of the hub's API for data-set repositories: what pushing and pulling ask of it."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from loopback import Silent, served

# Files above this many bytes are large.
LARGE = 1000


def listed(name: str, content: bytes) -> dict:
    """An entry of a hub's listing: git's digest, and SHA-256 where it is large."""
    found = {"type": "file", "path": name, "size": len(content)}
    found["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if len(content) > LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return found


class Repository:
    """A repository in memory: its commits, and large files by their SHA-256.

    Attributes:
        commits: for each, its message and the files that it leaves, by path.
        large: what was uploaded, by hash.
        uploads: the hash of every upload, in order.
        refused: hashes whose upload is refused, as where a network fails.
        asked: every request, as "GET /path".
        meets: called with each request's handler; whether it is done with.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Begin anew, without a repository."""
        self.exists = False
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.large: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.refused: set[str] = set()
        self.asked: list[str] = []
        self.meets: Callable[[Any], bool] = lambda handler: False

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1] if self.commits else {}

    @property
    def head(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@contextmanager
def sharing_hub():
    """Serve one repository on loopback; yields (address, the repository)."""
    held = Repository()

    class Handler(Silent):
        def parse_request(self):
            if not super().parse_request():
                return False
            held.asked.append(f"{self.command} {self.path}")
            return not held.meets(self)

        def reply(self, found, status=200, headers=()):
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            names = {name.lower() for name, _ in headers}
            if "content-length" not in names:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self):
            here, given = f"http://{self.headers['Host']}", self.body()
            if self.path == "/api/repos/create":
                status, held.exists = (409 if held.exists else 200), True
                self.reply({"url": f"{here}/datasets/me/mine", "name": "me/mine"}, status)
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(given)["files"]
                large = [one["size"] > LARGE for one in files]
                self.reply({"files": [
                    {"path": one["path"], "uploadMode": "lfs" if big else "regular",
                     "shouldIgnore": False} for one, big in zip(files, large, strict=True)
                ]})  # fmt: skip
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = []
                for one in json.loads(given)["objects"]:
                    known = one["oid"] in held.large
                    upload = {"upload": {"href": f"{here}/upload/{one['oid']}"}}
                    objects.append(one | ({} if known else {"actions": upload}))
                self.reply({"transfer": "basic", "objects": objects})
            elif "/commit/" in self.path:
                files, message = dict(held.files), ""
                for line in filter(None, given.splitlines()):
                    told = json.loads(line)
                    value = told["value"]
                    if told["key"] == "header":
                        message = value["summary"]
                    elif told["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif told["key"] == "lfsFile":
                        files[value["path"]] = held.large[value["oid"]]
                held.commits.append((message, files))
                self.reply(
                    {
                        "success": True,
                        "commitOid": held.head,
                        "commitUrl": f"{here}/datasets/me/mine/commit/{held.head}",
                    }
                )
            else:
                self.reply({"error": f"no {self.path}"}, 404)

        def do_PUT(self):
            name, content = self.path.rpartition("/")[2], self.body()
            if name in held.refused:
                self.reply({"error": "refused"}, 403)
                return
            assert hashlib.sha256(content).hexdigest() == name
            held.large[name] = content
            held.uploads.append(name)
            self.reply({})

        def do_GET(self):
            path = self.path.partition("?")[0]
            if re.fullmatch(r"/api/datasets/me/mine(/revision/[^/]+)?", path):
                names = [{"rfilename": name} for name in held.files]
                self.reply({"id": "me/mine", "sha": held.head, "siblings": names})
            elif "/tree/" in path:
                self.reply([listed(name, content) for name, content in held.files.items()])
            elif found := re.fullmatch(r"/datasets/me/mine/resolve/[^/]+/(.+)", path):
                content = held.files.get(found[1])
                if content is None:
                    self.reply(b"", 404, [("X-Error-Code", "EntryNotFound")])
                    return
                tag = hashlib.sha256(content).hexdigest()
                self.reply(content, 200, [("ETag", f'"{tag}"'), ("X-Repo-Commit", held.head)])
            else:
                self.reply(b"", 404, [("X-Error-Code", "RepoNotFound")])

        do_HEAD = do_GET

    with served(Handler) as address:
        yield address, held
