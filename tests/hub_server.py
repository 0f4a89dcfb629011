"""A stand-in for the Hugging Face hub: a server with the routes that huggingface_hub uses, and faults at will."""

import base64
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

OWNER, READER = "hf_owner", "hf_reader"
"""Tokens: of the account `lab`, which may write its repositories, and of one that may only read what is public."""


@dataclasses.dataclass
class Repo:
    """A repository: commit -> path -> content, and branches."""

    private: bool = False
    gated: bool = False
    commits: dict = dataclasses.field(default_factory=dict)
    refs: dict = dataclasses.field(default_factory=dict)

    def commit(self, files, branch="main"):
        """Makes a commit with exactly these files."""
        content = repr([self.refs.get(branch), sorted(files.items())]).encode()
        oid = hashlib.sha1(content).hexdigest()
        self.commits[oid], self.refs[branch] = dict(files), oid
        return oid

    def find(self, revision):
        """The commit that a revision means; None if there is none."""
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def head(self):
        return self.commits[self.refs["main"]]


class HubServer(http.server.ThreadingHTTPServer):
    """Holds `repos` by "models/OWNER/NAME" and "datasets/OWNER/NAME".

    Attributes:
        asked: "METHOD path" of every request.
        cut: how many of the next downloads break off halfway.
        busy: how many of the next requests get status 503.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.asked, self.objects, self.cut, self.busy = {}, [], {}, 0, 0
        self.gone = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        """Refuses connections, and hangs up on those that are open."""
        self.gone = True
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hung up is no news."""

    def add(self, name, folder, branch="main", **settings):
        """Makes or extends a repository from a folder; returns the commit."""
        repo = self.repos.setdefault(name, Repo(**settings))
        return repo.commit({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}, branch)

    def fetched(self):
        """The names of the files whose content was asked for."""
        return [entry.rpartition("/")[2] for entry in self.asked if entry.startswith("GET") and "/resolve/" in entry]


class Failed(Exception):
    def __init__(self, status, code="", text=""):
        self.status, self.code, self.text = status, code, text


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do(self):
        if self.server.gone:
            self.close_connection = True
            return None
        path, _, _ = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {path}")
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        try:
            if self.server.busy:
                self.server.busy -= 1
                raise Failed(503)
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return route(self, *(urllib.parse.unquote(part or "") for part in match.groups()), body=body)
            raise Failed(404, text=f"no route {self.command} {path}")
        except Failed as failed:
            head = {"X-Error-Code": failed.code} if failed.code else {}
            self.answer({"error": failed.text}, failed.status, {**head, "X-Error-Message": failed.text or failed.code})

    do_GET = do_HEAD = do_POST = do_PUT = do

    def answer(self, content, status=200, headers=None, cut=False):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    def repo(self, name, content=False):
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.token != OWNER):
            raise Failed(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated and self.token != OWNER:
            raise Failed(403, "GatedRepo", "Access to model is restricted")
        return repo

    def at(self, name, revision, content=False):
        repo = self.repo(name, content)
        oid = repo.find(revision)
        if oid is None:
            raise Failed(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid, repo.commits[oid]

    def may_write(self, owner):
        if not self.token:
            raise Failed(401, text="Invalid username or password.")
        if self.token != OWNER or owner != "lab":
            raise Failed(403, text=f"You don't have the rights to create a model under the namespace {owner}")

    def whoami(self, body):
        if self.token not in (OWNER, READER):
            raise Failed(401, text="Invalid credentials in Authorization header")
        self.answer({"name": "lab" if self.token == OWNER else "guest", "type": "user", "orgs": []})

    def create(self, body):
        wish = json.loads(body)
        self.may_write(wish["organization"])
        name = f"{wish.get('type', 'model')}s/{wish['organization']}/{wish['name']}"
        there = name in self.server.repos
        if not there:
            self.server.repos[name] = Repo(private=wish.get("visibility") == "private")
            self.server.repos[name].commit({".gitattributes": b""})
        self.answer({"url": f"{self.server.url}/{name.removeprefix('models/')}"}, 409 if there else 200)

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, kind, repo, revision, body):
        files = json.loads(body)["files"]
        mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"  # noqa: E731
        self.answer({"files": [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]})

    def batch(self, repo, body):
        self.may_write(repo.partition("/")[0])
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def upload(self, oid, body):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.answer(b"")

    def commit(self, kind, name, revision, body):
        self.may_write(name.partition("/")[0])
        repo = self.repo(f"{kind}/{name}")
        files = dict(repo.head)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files, revision)
        self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def info(self, kind, name, revision="main", *, body):
        oid, files = self.at(f"{kind}/{name}", revision)
        repo = self.server.repos[f"{kind}/{name}"]
        gated = "manual" if repo.gated else False
        siblings = [{"rfilename": path} for path in sorted(files)]
        self.answer({"id": name, "sha": oid, "private": repo.private, "gated": gated, "siblings": siblings, "tags": []})

    def tree(self, kind, name, revision, body):
        _, files = self.at(f"{kind}/{name}", revision)
        self.answer([{"type": "file", "path": p, "size": len(c), "oid": blob(c)} for p, c in sorted(files.items())])

    def resolve(self, datasets, name, revision, path, body):
        oid, files = self.at(f"{'datasets' if datasets else 'models'}/{name}", revision, content=True)
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if path not in files:
            raise Failed(404, "EntryNotFound", "Entry not found")
        content, status = files[path], 200
        headers["ETag"] = f'"{blob(content)}"'
        if start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            first, size, status = int(start[1]), len(content), 206
            content = content[first:]
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        cut = self.command == "GET" and self.server.cut > 0
        self.server.cut -= cut
        self.answer(content, status, headers, cut)


def blob(content):
    """The name that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


NAME = "([^/]+/[^/]+)"
API = f"/api/(models|datasets)/{NAME}"
ROUTES = [
    (("GET",), "/api/whoami-v2", Handler.whoami),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate),
    (("POST",), f"{API}/preupload/(.+)", Handler.preupload),
    (("POST",), f"/{NAME}[.]git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), "/lfs/([0-9a-f]+)", Handler.upload),
    (("POST",), f"{API}/commit/(.+)", Handler.commit),
    (("GET",), API, Handler.info),
    (("GET",), f"{API}/revision/(.+)", Handler.info),
    (("GET",), f"{API}/tree/([^/]+)", Handler.tree),
    (("GET", "HEAD"), f"/(datasets/)?{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
]
"""Methods, path, and what answers."""
