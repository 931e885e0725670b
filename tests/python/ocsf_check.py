"""Checks a finding of the Open Cybersecurity Schema Framework against the published schema, strictly.

    ocsf_check.py EVIDENCE < FINDING     EVIDENCE: the members that the first evidence must have, separated by spaces

The schema is the one that PyPI's `pydantic-ocsf` carries, in the release that the finding names. Nothing may be there that the schema does not
know or calls deprecated; what it requires must be, with the types, ranges and numbers that it gives. The package leaves out what profiles
add: `PROFILES` has that of the ones in use.
"""

import importlib.util
import json
import pathlib
import re
import sys

PROFILES = {"container": {"container", "namespace_pid"}, "host": {"actor", "device"}}

FINDING = json.load(sys.stdin)
RELEASE = FINDING["metadata"]["version"]
PACKAGE = pathlib.Path(importlib.util.find_spec("ocsf").submodule_search_locations[0])
SCHEMA = json.loads((PACKAGE / "schemas" / f"v{RELEASE.replace('.', '_')}.json").read_text())
DICTIONARY = SCHEMA["dictionary"]["attributes"]
TYPES = SCHEMA["dictionary"]["types"]["attributes"]
WRONG = []


def resolved(table, name):
    """Attributes with those that are inherited, and the constraints nearest to it."""
    attributes, constraints, profiles = {}, None, set()
    while name:
        row = table[name]
        for key, value in row["attributes"].items():
            if key != "$include":
                attributes[key] = {**value, **attributes.get(key, {})}
        constraints = row.get("constraints") if constraints is None else constraints
        profiles |= set(row.get("profiles") or [])
        name = row.get("extends")
    for profile in profiles & set(FINDING["metadata"]["profiles"]):
        for key in PROFILES[profile]:
            attributes.setdefault(key, {})
    return attributes, constraints or {}


def check_scalar(kind, value, path):
    row = TYPES.get(kind)
    if row is None:
        WRONG.append(f"{path}: the schema has no type {kind}")
        return
    base = row.get("type", kind)
    fits = {
        "boolean_t": lambda: isinstance(value, bool),
        "integer_t": lambda: type(value) is int and abs(value) < 1 << 31,
        "long_t": lambda: type(value) is int,
        "float_t": lambda: type(value) in (int, float),
        "string_t": lambda: isinstance(value, str),
        "json_t": lambda: True,
    }[base]()
    if not fits:
        WRONG.append(f"{path}: {value!r} is no {kind}")
    elif "range" in row and not row["range"][0] <= value <= row["range"][1]:
        WRONG.append(f"{path}: {value!r} is out of range")
    elif "regex" in row and not re.search(row["regex"], value):
        WRONG.append(f"{path}: {value!r} does not look like a {kind}")
    elif len(str(value)) > row.get("max_len", len(str(value))):
        WRONG.append(f"{path}: {value!r} is too long")


def check_value(attribute, kind, value, path):
    numbers = attribute.get("enum")
    # The base of all events knows its own category and class alone; those of findings are compared below.
    if numbers and path not in ("finding.category_uid", "finding.class_uid") and str(value) not in numbers:
        WRONG.append(f"{path}: {value!r} is none of {sorted(numbers)}")
    if kind in SCHEMA["objects"]:
        if isinstance(value, dict):
            check_object(SCHEMA["objects"], kind, value, path)
        else:
            WRONG.append(f"{path}: {value!r} is no {kind}")
    else:
        check_scalar(kind, value, path)


def check_object(table, name, value, path):
    attributes, constraints = resolved(table, name)
    # An object of any kind has no attributes of its own.
    if not attributes:
        return
    for key, member in value.items():
        at = f"{path}.{key}"
        if key not in attributes:
            WRONG.append(f"{at}: {name} has no such attribute")
            continue
        attribute = {**DICTIONARY.get(key, {}), **attributes[key]}
        if "@deprecated" in attribute:
            WRONG.append(f"{at}: deprecated: {attribute['@deprecated']['message']}")
        kind = attribute.get("object_type") or attribute["type"]
        if attribute.get("is_array", False) != isinstance(member, list):
            WRONG.append(f"{at}: a list where there should be none, or none where there should be")
            continue
        for number, part in enumerate(member if isinstance(member, list) else [member]):
            check_value(attribute, kind, part, f"{at}[{number}]" if isinstance(member, list) else at)
    for key, attribute in attributes.items():
        if attribute.get("requirement") == "required" and key not in value:
            WRONG.append(f"{path}.{key}: missing")
    for names, fits in [("at_least_one", lambda count: count > 0), ("just_one", lambda count: count == 1)]:
        keys = constraints.get(names)
        if keys and not fits(sum(key in value for key in keys)):
            WRONG.append(f"{path}: {names} of {keys}")


check_object(SCHEMA["events"], "detection_finding", FINDING, "finding")
uid = 1000 * SCHEMA["categories_meta"]["attributes"]["findings"]["uid"] + SCHEMA["events"]["detection_finding"]["uid"]
numbers = [FINDING[key] for key in ("category_uid", "class_uid", "type_uid")]
if numbers != [SCHEMA["categories_meta"]["attributes"]["findings"]["uid"], uid, 100 * uid + FINDING["activity_id"]]:
    WRONG.append(f"finding: category, class and type do not fit: {numbers}")
told = set(FINDING["evidences"][0])
if len(sys.argv) > 1 and told != set(sys.argv[1].split()):
    WRONG.append(f"the evidence tells {sorted(told)}")
if WRONG:
    sys.exit("not of the schema:\n  " + "\n  ".join(WRONG))
