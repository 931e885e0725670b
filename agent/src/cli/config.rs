//! `saker config`: the configuration's schema, its check, and what it amounts to.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Failure, chain, print};
use crate::config::Config;

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The JSON schema of the configuration file, for editors.
    Schema,
    /// Whether a configuration is sound, with what the environment overrides, and the files that it names.
    Check(File),
    /// The configuration that would run: the file, what the environment overrides, and the default of everything else, as YAML.
    Print(File),
}

/// Which.
#[derive(Debug, clap::Args)]
pub struct File {
    /// The file; without one every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Does it.
pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Schema => {
            let text = serde_json::to_string_pretty(&schema())
                .map_err(|error| Failure::Internal(error.to_string()))?;
            print(&(text + "\n"))
        }
        Command::Check(file) => {
            let config = file.read()?;
            config.check_files().map_err(Failure::Input)?;
            print("the configuration is sound\n")
        }
        Command::Print(file) => {
            let config = file.read()?;
            let text = serde_saphyr::to_string(&config)
                .map_err(|error| Failure::Internal(error.to_string()))?;
            print(&text)
        }
    }
}

/// The schema of the file as it is read: where a section or a list has nothing but comments in it, its defaults are meant.
fn schema() -> Value {
    let mut schema = Value::from(schemars::schema_for!(Config));
    let definitions = schema["$defs"].clone();
    let is_section = |reference: &Value| {
        let name = reference
            .as_str()
            .and_then(|at| at.strip_prefix("#/$defs/"));
        name.is_some_and(|name| definitions[name]["type"] == "object")
    };
    let allow_empty = |properties: &mut Map<String, Value>| {
        for property in properties.values_mut() {
            if property["type"] == "array" {
                property["type"] = json!(["array", "null"]);
            } else if is_section(&property["$ref"])
                && let Some(property) = property.as_object_mut()
                && let Some(reference) = property.remove("$ref")
            {
                let either = json!([{ "$ref": reference }, { "type": "null" }]);
                property.insert("anyOf".into(), either);
            }
        }
    };
    if let Some(properties) = schema["properties"].as_object_mut() {
        allow_empty(properties);
    }
    for definition in schema["$defs"].as_object_mut().into_iter().flatten() {
        if let Some(properties) = definition.1["properties"].as_object_mut() {
            allow_empty(properties);
        }
    }
    schema
}

impl File {
    fn read(&self) -> Result<Config, Failure> {
        Config::load(self.config.as_deref()).map_err(|error| Failure::Input(chain(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_empty_is_so_in_the_schema_and_as_it_is_read() {
        let schema = schema();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("saker.yaml");
        let check = |place: &str, text: &str, is_allowed: bool| {
            let property = schema.pointer(place).expect(place);
            let is_null = |kind: &Value| kind == "null";
            let listed =
                |kinds: &Value| kinds.as_array().is_some_and(|all| all.iter().any(is_null));
            let either = property["anyOf"].as_array().into_iter().flatten();
            let says = listed(&property["type"]) || either.map(|one| &one["type"]).any(is_null);
            assert_eq!(says, is_allowed, "{place}: {property}");
            std::fs::write(&path, text).expect("it is written");
            assert_eq!(Config::read(&path).is_ok(), is_allowed, "{text}");
        };
        check("/properties/http", "http:\n", true);
        check("/properties/sinks", "sinks:\n  # none\n", true);
        check("/properties/hostname", "hostname:\n", true);
        check("/$defs/Rules/properties/paths", "rules: {paths: }", true);
        check("/$defs/Grpc/properties/tcp", "grpc: {tcp: }", true);
        check("/$defs/Http/properties/listen", "http: {listen: }", false);
        check(
            "/$defs/Rules/properties/profile",
            "rules: {profile: }",
            false,
        );
        check(
            "/$defs/Alerts/properties/window_s",
            "alerts: {window_s: }",
            false,
        );
        check(
            "/$defs/Stdout/properties/enabled",
            "stdout: {enabled: }",
            false,
        );
    }
}
