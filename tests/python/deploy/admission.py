"""Evaluates the expressions of ValidatingAdmissionPolicies (argument 1) on the pods of the examples (argument 2 and on), each with one thing
changed, and compares which messages come. The expressions are Common Expression Language; what the API server adds to it is not used."""

import copy
import json
import sys

import celpy
import yaml

DIGEST = "registry.internal/ml-trainer@sha256:" + "a" * 64


def programs(path):
    """Of each policy its variables in order and its validations."""
    environment = celpy.Environment()
    compiled = lambda text: environment.program(environment.compile(text))
    with open(path) as file:
        documents = list(yaml.safe_load_all(file))
    for policy in documents:
        if policy["kind"] == "ValidatingAdmissionPolicy":
            spec = policy["spec"]
            variables = [(v["name"], compiled(v["expression"])) for v in spec.get("variables", [])]
            yield variables, [(compiled(v["expression"]), v["message"]) for v in spec["validations"]]


def refusals(policies, pod):
    """The messages with which a pod is refused; an expression that fails refuses too (failurePolicy: Fail)."""
    said = set()
    for variables, validations in policies:
        known = {}
        for name, program in variables:
            known[name] = program.evaluate(celpy.json_to_cel({"object": pod}) | {"variables": celpy.celtypes.MapType(known)})
            known = {celpy.celtypes.StringType(key): value for key, value in known.items()}
        for program, message in validations:
            activation = celpy.json_to_cel({"object": pod}) | {"variables": celpy.celtypes.MapType(known)}
            if not program.evaluate(activation):
                said.add(message)
    return said


def change(pod, path, value):
    """A copy with this value at the path, or without it where the value is None."""
    pod = copy.deepcopy(pod)
    *way, last = path
    place = pod
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return pod


ROOT, TOKEN, SECRET = "read-only root", "service account's token", "secrets must be mounted"
REGISTRY, PINNED, TAINT = "approved registry", "pinned by its digest", "GPU nodes' taint"
MAIN = ("spec", "containers", 0)
OTHER = {"name": "other", "image": DIGEST, "securityContext": {"readOnlyRootFilesystem": True}}

# What is changed, to what, and of which refusals the message must speak: these and no others.
CASES = [
    ((*MAIN, "image"), DIGEST, []),
    ((*MAIN, "image"), "registry.internal/ml-trainer:latest", [PINNED]),
    ((*MAIN, "image"), "registry.internal/ml-trainer@sha256:abc", [PINNED]),
    ((*MAIN, "image"), DIGEST + ":latest", [PINNED]),
    ((*MAIN, "image"), "docker.io/library/python@sha256:" + "a" * 64, [REGISTRY]),
    ((*MAIN, "image"), "registry.internal.example.org/x@sha256:" + "a" * 64, [REGISTRY]),
    ((*MAIN, "image"), "python", [REGISTRY, PINNED]),
    (("spec", "initContainers"), [OTHER], []),
    (("spec", "initContainers"), [OTHER | {"image": "python"}], [REGISTRY, PINNED]),
    (("spec", "initContainers"), [OTHER | {"securityContext": {}}], [ROOT]),
    (("spec", "ephemeralContainers"), [OTHER], []),
    (("spec", "ephemeralContainers"), [OTHER | {"image": "busybox", "securityContext": None}], [REGISTRY, PINNED, ROOT]),
    ((*MAIN, "securityContext"), None, [ROOT]),
    ((*MAIN, "securityContext", "readOnlyRootFilesystem"), False, [ROOT]),
    (("spec", "automountServiceAccountToken"), None, [TOKEN]),
    (("spec", "automountServiceAccountToken"), True, [TOKEN]),
    ((*MAIN, "env"), [{"name": "A", "value": "b"}], []),
    ((*MAIN, "env"), [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], []),
    ((*MAIN, "env"), [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}], [SECRET]),
    ((*MAIN, "envFrom"), [{"configMapRef": {"name": "c"}}], []),
    ((*MAIN, "envFrom"), [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}], [SECRET]),
    (("spec", "tolerations"), None, []),
    (("spec", "tolerations"), [{"operator": "Exists"}], []),
    ((*MAIN, "resources", "limits"), {"memory": "1Gi"}, [TAINT]),
    ((*MAIN, "resources"), None, [TAINT]),
    ((*MAIN, "resources", "limits"), {"nvidia.com/gpu": "0"}, [TAINT]),
    ((*MAIN, "resources", "limits"), {"nvidia.com/gpu": 1}, []),
    ((*MAIN, "resources", "limits"), {"nvidia.com/mig-1g.10gb": "1"}, []),
    (("spec", "volumes"), [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}], [TOKEN]),
    (("spec", "volumes"), [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "istio-ca"}}]}}], []),
    (("spec", "volumes"), [{"name": "t", "projected": {"sources": [{"configMap": {"name": "c"}}]}}], []),
    (("spec", "volumes"), [{"name": "m", "image": {"reference": "evil.example/model:latest"}}], [REGISTRY, PINNED]),
    (("spec", "volumes"), [{"name": "m", "image": {"reference": DIGEST}}], []),
]


def main():
    policies = list(programs(sys.argv[1]))
    wrong, cases = [], 0
    for path in sys.argv[2:]:
        with open(path) as file:
            pod = {"spec": yaml.safe_load(file)["spec"]["template"]["spec"]}
        if refused := refusals(policies, pod):
            wrong.append(f"{path} as it is: {sorted(refused)}")
        for where, value, expected in CASES:
            cases += 1
            refused = refusals(policies, change(pod, where, value))
            unexpected = [text for text in refused if not any(part in text for part in expected)]
            missing = [part for part in expected if not any(part in text for text in refused)]
            if unexpected or missing:
                wrong.append(f"{path}, {where} = {json.dumps(value)}: not expected {unexpected}, missing {missing}")
    print(json.dumps({"cases": cases, "wrong": wrong}))


main()
