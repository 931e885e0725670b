//! Kubernetes manifests, checked as strictly as an API server would: by Kubernetes' own schemas, and by the types of custom resources.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{image::output, python, skip};

/// What a validation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The minor versions of Kubernetes whose schemas were used.
    pub versions: Vec<String>,
    /// How many objects there were.
    pub objects: u64,
    /// A sentence for everything that is wrong.
    pub wrong: Vec<String>,
    /// `group/version Kind` of what Kubernetes has no schema for.
    pub unknown: Vec<String>,
}

/// The manifests below a folder, in order, without the files that list them.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(below(&path));
        } else if path.extension().is_some_and(|end| end == "yaml")
            && !path.ends_with("kustomization.yaml")
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Validates against the three newest minor versions of Kubernetes, or `None` after recording a skip.
pub fn validate(files: &[PathBuf]) -> Option<Checked> {
    let mut command = Command::new(python::manifest_libraries()?);
    command
        .arg(python::script("deploy/validate.py"))
        .args(files);
    let said = answer(&mut command);
    Some(Checked {
        versions: texts(&said["versions"]),
        objects: said["objects"].as_u64().expect("a number"),
        wrong: texts(&said["wrong"]),
        unknown: texts(&said["unknown"]),
    })
}

/// Validates the custom resources among them, or `None` after recording a skip: how many there were, and what is wrong.
pub fn validate_custom(files: &[PathBuf]) -> Option<(u64, Vec<String>)> {
    let python = python::manifest_libraries()?;
    let types = env::var_os("SAKER_RESOURCE_TYPES")
        .map_or_else(|| python::cache().join("resource-types"), PathBuf::from);
    if !types.join("node_modules/.bin/tsc").exists() {
        skip(&format!(
            "the types of custom resources are not in {}: cargo xtask setup",
            types.display()
        ));
        return None;
    }
    let mut command = Command::new(python);
    command
        .arg(python::script("deploy/custom.py"))
        .arg(types)
        .args(files);
    let said = answer(&mut command);
    Some((
        said["objects"].as_u64().expect("a number"),
        texts(&said["wrong"]),
    ))
}

/// The one JSON object that a script writes.
pub fn answer(command: &mut Command) -> Value {
    let said = output(command).expect("the script succeeds");
    serde_json::from_str(&said).expect("an object")
}

/// The documents of a YAML text, or `None` after recording a skip.
pub fn documents(text: &str) -> Option<Vec<Value>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("documents.yaml");
    fs::write(&file, text).expect("it is written");
    let code = "import json, sys, yaml\n\
                print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
    let mut command = Command::new(python::manifest_libraries()?);
    let said = answer(command.args(["-c", code]).arg(file));
    Some(said.as_array().expect("a list").clone())
}

/// Helm itself.
#[derive(Debug)]
pub struct Helm {
    python: PathBuf,
    library: PathBuf,
    chart: PathBuf,
}

/// What Helm made of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What is installed.
    pub manifest: String,
    /// What `helm test` starts.
    pub hooks: String,
    /// What whoever installs it is told.
    pub notes: String,
}

impl Helm {
    /// For this chart, or `None` after recording a skip.
    pub fn or_skip(chart: &Path) -> Option<Self> {
        let found = python::helm_library()?;
        Some(Self {
            python: python::manifest_libraries()?,
            library: found,
            chart: chart.into(),
        })
    }

    /// The linter's findings that are more than advice.
    pub fn lint(&self) -> Vec<Value> {
        let said = answer(&mut self.command("lint"));
        let messages = said["Messages"].as_array().expect("a list").iter();
        // 1 is information, such as the want of an icon.
        let grave = messages.filter(|message| message["Severity"].as_u64() != Some(1));
        grave.cloned().collect()
    }

    /// Renders with these values over the chart's own; an error is what Helm says.
    pub fn render(&self, values: &Value) -> Result<Rendered, String> {
        let mut all = self.render_each(std::slice::from_ref(values));
        all.pop().expect("one for one")
    }

    /// The same with each of these in turn, which takes one start of Helm.
    pub fn render_each(&self, values: &[Value]) -> Vec<Result<Rendered, String>> {
        let mut command = self.command("render");
        command.args(values.iter().map(Value::to_string));
        let said = answer(&mut command);
        let said = said.as_array().expect("a list");
        assert_eq!(said.len(), values.len());
        let result = |one: &Value| {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            match one["refused"].as_str() {
                Some(why) => Err(why.to_owned()),
                None => Ok(Rendered {
                    manifest: text("manifest"),
                    hooks: text("hooks"),
                    notes: text("notes"),
                }),
            }
        };
        said.iter().map(result).collect()
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(python::script("deploy/helm.py")).args([
            &self.library,
            &PathBuf::from(action),
            &self.chart,
        ]);
        command
    }
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|text| text.as_str().expect("text").to_owned())
        .collect()
}
