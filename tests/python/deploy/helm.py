"""Lints and renders a chart with Helm itself (its Go library, out of the package helm-sdkpy). Helm renders a release when it installs one, so this
installs into a server that takes everything and keeps nothing.

helm.py LIBRARY lint CHART              the linter's findings as JSON
helm.py LIBRARY render CHART VALUES...  what it rendered, as JSON: for each VALUES, which is JSON, an object with `manifest`, `hooks` and `notes`, all text
                                        (the first two of YAML), or with `refused`, what Helm said."""

import ctypes
import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path

# Kinds of the chart by group and version: Helm asks the server for them.
KINDS = {
    "v1": ["ConfigMap", "Secret", "Service", "ServiceAccount", "Pod"],
    "apps/v1": ["DaemonSet"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "scheduling.k8s.io/v1": ["PriorityClass"],
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PrometheusRule"],
    "cert-manager.io/v1": ["Certificate"],
}
PLURALS = {"NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}


def resources(version):
    rows = []
    for kind in KINDS[version]:
        name = PLURALS.get(kind, kind.lower() + "s")
        verbs = ["create", "get", "list", "patch", "update", "delete"]
        rows.append({"name": name, "singularName": "", "namespaced": kind != "PriorityClass", "kind": kind, "verbs": verbs})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows}


def groups():
    listed = []
    for version in KINDS:
        if "/" in version:
            entry = {"groupVersion": version, "version": version.split("/")[1]}
            listed.append({"name": version.split("/")[0], "versions": [entry], "preferredVersion": entry})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        known = path.removeprefix("apis/").removeprefix("api/")
        if path == "version":
            self.answer(200, {"major": "1", "minor": "37", "gitVersion": "v1.37.0"})
        elif path == "api":
            self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            self.answer(200, groups())
        elif known in KINDS:
            self.answer(200, resources(known))
        elif path.endswith("/secrets"):
            self.answer(200, {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = "json" in self.headers["Content-Type"]
        self.answer(201, json.loads(body) if is_json else {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    do_PUT = do_PATCH = do_POST


def main():
    library, action, chart = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    helm = ctypes.CDLL(str(library))
    helm.helm_sdkpy_last_error.restype = ctypes.c_char_p

    def must(status):
        if status:
            sys.exit(helm.helm_sdkpy_last_error().decode())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        address = {"server": f"http://127.0.0.1:{server.server_port}"}
        clusters, users = [{"name": "c", "cluster": address}], [{"name": "u", "user": {}}]
        contexts = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
        access = {"apiVersion": "v1", "kind": "Config", "clusters": clusters, "users": users, "contexts": contexts}
        json.dump(access | {"current-context": "x"}, file)
        file.flush()
        handle, out = ctypes.c_ulonglong(), ctypes.c_char_p()
        must(helm.helm_sdkpy_config_create(b"saker-system", file.name.encode(), None, b"{}", ctypes.byref(handle)))
        if action == "lint":
            must(helm.helm_sdkpy_lint(handle, chart.encode(), ctypes.byref(out)))
            print(out.value.decode())
            return
        options = {"wait": False, "timeout_seconds": 60, "server_side_apply": "false", "disable_openapi_validation": True}
        options = json.dumps(options).encode()

        def render(values):
            arguments = [b"saker", chart.encode(), values.encode(), b"", options]
            if helm.helm_sdkpy_install(handle, *arguments, ctypes.byref(out)):
                return {"refused": helm.helm_sdkpy_last_error().decode()}
            release = json.loads(out.value.decode())
            hooks = "\n---\n".join(hook["manifest"] for hook in release.get("hooks") or [])
            return {"manifest": release["manifest"], "hooks": hooks, "notes": release["info"]["notes"]}

        print(json.dumps([render(values) for values in sys.argv[4:]]))


main()
