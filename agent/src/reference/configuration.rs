//! The configuration file, from the JSON schema that its types derive.

use std::fmt::Write as _;

use schemars::schema_for;
use serde_json::Value;

use super::{cell, title};
use crate::config::Config;

/// Every key with type, default and meaning.
pub fn page() -> String {
    let mut page = title("Configuration", "the types of `agent/src/config.rs`");
    page.push_str(
        "`saker run --config FILE`; YAML. Every key is optional, but for what a sink is nothing without; an unknown key is an error. \
         `[]` stands for each entry of a list. `saker config check` says whether a file is sound, \
         `saker config print` what it amounts to, `saker config schema` what editors want to know.\n\n\
         An environment variable overrides a key: `SAKER__HTTP__LISTEN` is `http.listen`, with the value as it would stand in the file. \
         There is no key for a secret, only for the file that holds it.\n\n",
    );
    page.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    let schema = schema_for!(Config).to_value();
    rows(&schema, &schema, "", &mut page);
    page
}

fn rows(schema: &Value, root: &Value, prefix: &str, page: &mut String) {
    let schema = resolve(schema, root);
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    for (name, property) in properties {
        let key = format!("{prefix}{name}");
        let target = resolve(property, root);
        if target["properties"].is_object() {
            rows(target, root, &format!("{key}."), page);
            continue;
        }
        let items = resolve(&target["items"], root);
        if items["properties"].is_object() {
            rows(items, root, &format!("{key}[]."), page);
            continue;
        }
        let doc = property["description"]
            .as_str()
            .or(target["description"].as_str())
            .unwrap_or_default();
        let default = if property["default"].is_null() {
            String::new()
        } else {
            format!("`{}`", property["default"])
        };
        let _ = writeln!(
            page,
            "| `{key}` | {} | {default} | {} |",
            kind(target, root),
            cell(doc)
        );
    }
}

/// Follows a reference to the schema that it names.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let name = schema["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix("#/$defs/"));
    name.map_or(schema, |name| &root["$defs"][name])
}

fn kind(schema: &Value, root: &Value) -> String {
    if let Some(choices) = schema["oneOf"].as_array() {
        let names: Vec<_> = choices
            .iter()
            .filter_map(|choice| choice["const"].as_str())
            .collect();
        return names.join(", ");
    }
    if let Some(names) = schema["enum"].as_array() {
        return names
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(options) = schema["anyOf"].as_array() {
        return options
            .iter()
            .map(|option| kind(resolve(option, root), root))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => {
            format!("list of {}", kind(resolve(&schema["items"], root), root))
        }
        Value::String(name) => name.clone(),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| *name != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ => String::new(),
    }
}
