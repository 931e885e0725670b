"""Validates custom resources, whose schemas are not Kubernetes' own: each becomes an object literal of the type that was made of its
definition, which TypeScript checks strictly (a member that the type does not have is an error). Arguments: the folder with
`node_modules`, then manifests; documents of other groups are left out. Prints one JSON object like validate.py."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

PACKAGES = {
    "cert-manager.io": "cert-manager",
    "external-secrets.io": "external-secrets",
    "networking.istio.io": "istio",
    "security.istio.io": "istio",
    "monitoring.coreos.com": "prometheus-operator",
}


def main():
    modules, wrong, lines, names = Path(sys.argv[1]), [], [], []
    for name in sys.argv[2:]:
        with open(name) as file:
            documents = [document for document in yaml.safe_load_all(file) if document]
        for document in documents:
            group, _, version = document["apiVersion"].rpartition("/")
            if group not in PACKAGES:
                continue
            kind = document["kind"]
            module = f"@kubernetes-models/{PACKAGES[group]}/{group}/{version}/{kind}"
            number = len(names)
            # One line each, so that the line of an error says which document.
            lines.append(f'import type {{ I{kind} as T{number} }} from "{module}"; export const o{number}: T{number} = {json.dumps(document)};')
            names.append(f"{name}: {document['apiVersion']} {kind} {document['metadata']['name']}")
    with tempfile.TemporaryDirectory(dir=modules) as folder:
        source = Path(folder) / "documents.ts"
        source.write_text("\n".join(lines) + "\n")
        compiler = [modules / "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--pretty", "false"]
        compiler += ["--module", "nodenext", "--moduleResolution", "nodenext", "--target", "es2022", source]
        done = subprocess.run(compiler, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        _, _, rest = line.partition("documents.ts(")
        number, _, said = rest.partition(",")
        wrong.append(f"{names[int(number) - 1]}: {said}" if number.isdigit() else line)
    if done.returncode and not wrong:
        wrong.append(done.stderr)
    print(json.dumps({"objects": len(names), "wrong": wrong}))


main()
