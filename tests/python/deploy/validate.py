"""Validates manifests strictly (an unknown field is an error) against the three newest minor versions of Kubernetes that the installed
kubernetes-validate knows. Prints one JSON object: the versions, how many objects there were, what is wrong, and the kinds that
Kubernetes has no schema for."""

import json
import sys

import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions, major_minor


class Strict(yaml.SafeLoader):
    """A key that stands twice is an error, as for the API server."""


def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {str(key) for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(twice)}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def newest(count):
    by_number = lambda version: [int(part) for part in version.split(".")]
    return sorted({major_minor(version) for version in all_versions()}, key=by_number)[-count:]


def main():
    versions, wrong, unknown, objects = newest(3), [], set(), 0
    for name in sys.argv[1:]:
        try:
            with open(name) as file:
                documents = [document for document in yaml.load_all(file, Loader=Strict) if document is not None]
        except yaml.YAMLError as error:
            wrong.append(f"{name}: {error}")
            continue
        for document in documents:
            objects += 1
            what = f"{name}: {document.get('kind')} {document.get('metadata', {}).get('name')}"
            for version in versions:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.SchemaNotFoundError:
                    unknown.add(f"{document['apiVersion']} {document['kind']}")
                except kubernetes_validate.ValidationError as error:
                    where = ".".join(str(part) for part in error.path)
                    wrong.append(f"{what} ({version}): {where}: {error.message}")
    print(json.dumps({"versions": versions, "objects": objects, "wrong": wrong, "unknown": sorted(unknown)}))


main()
