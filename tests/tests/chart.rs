//! The Helm chart and the plain manifests: rendered by Helm itself, valid for Kubernetes, one source, and no more privileges than said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use saker_tests::{
    image::output,
    manifests::{self, Helm, Rendered},
    program, repository, skip,
};
use serde_json::{Value, json};

fn helm() -> Option<Helm> {
    Helm::or_skip(&repository().join("deploy/helm/saker"))
}

/// Values that turn on everything the chart has.
fn every_value() -> Value {
    let path = repository().join("tests/testdata/deploy/every-value.json");
    serde_json::from_str(&fs::read_to_string(path).expect("it is there")).expect("JSON")
}

/// With nothing set, and with everything.
fn renderings() -> Option<[Rendered; 2]> {
    let helm = helm()?;
    let render = |values: &Value| helm.render(values).expect("it renders");
    Some([render(&json!({})), render(&every_value())])
}

#[test]
fn the_chart_lints() {
    let Some(helm) = helm() else { return };
    let found = helm.lint();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_the_chart_makes_validates_strictly() {
    let Some(helm) = helm() else { return };
    let fewest = json!({"appArmorProfile": null, "tolerations": [], "capabilities": {"sysAdmin": false}, "networkPolicy": {"metricsFrom": []},
                        "priorityClass": {"create": false}});
    let default =
        json!({"seLinuxOptions": {"type": "spc_t"}, "appArmorProfile": {"type": "RuntimeDefault"}});
    let values = [json!({}), every_value(), fewest, default];
    let renderings = helm.render_each(&values).into_iter();
    let renderings: Vec<_> = renderings.map(|one| one.expect("it renders")).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files: Vec<PathBuf> = manifests::below(&repository().join("deploy/kubernetes"));
    for (number, rendered) in renderings.iter().enumerate() {
        for (name, text) in [("manifest", &rendered.manifest), ("hooks", &rendered.hooks)] {
            let file = folder.path().join(format!("{name}-{number}.yaml"));
            fs::write(&file, text).expect("it is written");
            files.push(file);
        }
    }
    let Some(checked) = manifests::validate(&files) else {
        return;
    };
    assert!(checked.wrong.is_empty(), "{:#?}", checked.wrong);
    assert_eq!(checked.versions.len(), 3, "{checked:?}");
    let custom = [
        "cert-manager.io/v1 Certificate",
        "monitoring.coreos.com/v1 PrometheusRule",
        "monitoring.coreos.com/v1 ServiceMonitor",
    ];
    assert_eq!(checked.unknown, custom);
    let Some((objects, wrong)) = manifests::validate_custom(&files) else {
        return;
    };
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Those of the rendering with everything, and of the plain manifests.
    assert_eq!(objects, 5);
}

/// The plain manifests are the chart's rendering with no values set. SAKER_UPDATE=1 writes them.
#[test]
fn plain_manifests_are_what_the_chart_renders() {
    let Some(helm) = helm() else { return };
    let note = "# What deploy/helm/saker renders with its default values; SAKER_UPDATE=1 cargo test -p saker-tests --test chart writes it.\n";
    let check = |file: &str, text: String| {
        let path = repository().join("deploy/kubernetes").join(file);
        let text = format!("{note}{}\n", text.trim_end());
        if std::env::var_os("SAKER_UPDATE").is_some() {
            fs::write(&path, &text).expect("it is written");
        }
        let there = fs::read_to_string(&path).expect("SAKER_UPDATE=1 writes it");
        assert_eq!(there, text, "{file}");
    };
    let render = |values: &Value| helm.render(values).expect("it renders").manifest;
    check("saker.yaml", render(&json!({})));
    let monitored = json!({"metrics": {"serviceMonitor": true, "prometheusRule": true}});
    let monitored = render(&monitored);
    let parts = monitored
        .split("\n---\n")
        .filter(|part| part.contains("apiVersion: monitoring.coreos.com/"));
    let parts: Vec<_> = parts.collect();
    assert_eq!(parts.len(), 2, "{monitored}");
    check(
        "components/prometheus-operator/monitoring.yaml",
        format!("---\n{}", parts.join("\n---\n")),
    );
}

/// An agent without sinks over the network needs nobody's answers, not even names.
#[test]
fn what_no_sink_needs_stays_shut() {
    let Some(helm) = helm() else { return };
    let to = json!([{"to": [{"podSelector": {}}]}]);
    let values = [
        json!({"networkPolicy": {"metricsFrom": []}}),
        json!({"networkPolicy": {"egress": to}}),
    ];
    let counts = helm.render_each(&values).into_iter().map(|rendered| {
        let documents = manifests::documents(&rendered.expect("it renders").manifest)?;
        let of_kind = |document: &&Value| document["kind"] == "NetworkPolicy";
        let spec = &documents.iter().find(of_kind).expect("there is one")["spec"];
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        let count = |key: &str| spec[key].as_array().expect("a list").len();
        Some([count("ingress"), count("egress")])
    });
    let Some(counts) = counts.collect::<Option<Vec<_>>>() else {
        return;
    };
    assert_eq!(counts, [[0, 0], [1, 2]]);
}

/// `helm test` with every combination of what brings files: its pod has each file that the configuration names, and may read it.
#[test]
fn the_test_pod_has_every_file_that_is_named() {
    let Some(helm) = helm() else { return };
    let sink = json!({"name": "a", "url": "https://siem.internal/", "token_file": "/etc/saker/secrets/siem/token"});
    let mut values = Vec::new();
    for number in 0..16 {
        let has = |bit: u32| number & (1 << bit) != 0;
        let mut one = json!({});
        if has(0) {
            one["rules"] = json!({"a.yaml": "- macro: a\n  condition: evt.type = execve\n"});
            one["shippedRules"] = json!(has(3));
        }
        if has(1) {
            one["secretFiles"] = json!(["siem", "other"]);
            one["config"] = json!({"sinks": {"http": [sink]}});
        }
        if has(2) {
            one["grpc"] = json!({"enabled": true});
            if has(3) {
                one["grpc"]["certManager"] = json!({"enabled": true, "issuerRef": {"name": "a"}});
            }
        }
        values.push(one);
    }
    for (values, rendered) in values.iter().zip(helm.render_each(&values)) {
        let rendered = rendered.expect("it renders");
        let Some(installed) = manifests::documents(&rendered.manifest) else {
            return;
        };
        let maps = installed.iter().filter(|one| one["kind"] == "ConfigMap");
        let maps: Vec<_> = maps.collect();
        let config = maps
            .iter()
            .find_map(|map| map["data"]["saker.yaml"].as_str());
        let config = config.expect("the agent's configuration");
        let hooks = manifests::documents(&rendered.hooks).expect("as before");
        let [pod] = hooks.as_slice() else {
            panic!("{hooks:?}");
        };
        let (spec, security) = (&pod["spec"], &pod["spec"]["securityContext"]);
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["fsGroup"], security["runAsGroup"], "{values}");
        let volumes = spec["volumes"].as_array().expect("a list");
        for volume in volumes {
            match &volume["secret"] {
                Value::Null => {
                    let name = &volume["configMap"]["name"];
                    let is_there = maps.iter().any(|map| map["metadata"]["name"] == *name);
                    assert!(is_there, "{values}: {volume}");
                }
                // What the group may read; octal.
                secret => assert_eq!(secret["defaultMode"], 0o440, "{values}: {volume}"),
            }
        }
        // The agent's own are for root alone.
        let agent = &daemon_set(&installed)["spec"]["template"]["spec"];
        let secrets = |spec: &Value| {
            let volumes = spec["volumes"].as_array().expect("a list");
            let secrets = volumes.iter().filter(|volume| !volume["secret"].is_null());
            secrets.cloned().collect::<Vec<_>>()
        };
        let modes: Vec<_> = secrets(agent)
            .iter()
            .map(|one| one["secret"]["defaultMode"].clone())
            .collect();
        assert!(modes.iter().all(|mode| *mode == 0o400), "{modes:?}");
        assert_eq!(modes.len(), secrets(spec).len());
        let containers = spec["containers"].as_array().expect("a list");
        let has_rules = values["rules"].is_object();
        assert_eq!(containers.len(), 1 + usize::from(has_rules), "{values}");
        for container in containers {
            let mounts = container["volumeMounts"].as_array().expect("a list");
            let mut paths = Vec::new();
            for mount in mounts {
                assert_eq!(mount["readOnly"], true, "{mount}");
                let is_there = volumes.iter().any(|volume| volume["name"] == mount["name"]);
                assert!(is_there, "{values}: {mount}");
                paths.push(mount["mountPath"].as_str().expect("text"));
            }
            let of_agent = agent["containers"][0]["volumeMounts"].as_array();
            let is_mounted = |path: &&str| {
                let mut mounts = of_agent.expect("a list").iter();
                mounts.any(|mount| mount["mountPath"] == **path)
            };
            assert!(paths.iter().all(is_mounted), "{paths:?}");
            let arguments = container["args"].as_array().expect("a list").iter();
            let arguments = arguments.map(|argument| argument.as_str().expect("text"));
            let words = config
                .split(|mark: char| mark.is_whitespace() || "\",'[]".contains(mark))
                .chain(arguments);
            for named in words.filter(|word| word.starts_with("/etc/saker/")) {
                let is_there = paths.iter().any(|path| Path::new(named).starts_with(path));
                assert!(is_there, "{values}: {named} is not below {paths:?}");
            }
        }
    }
}

/// Whatever is turned on: no rights in the cluster, no privilege beyond the capabilities, and a reason beside each that is asked for.
#[test]
fn nothing_is_asked_for_without_a_reason() {
    let Some(renderings) = renderings() else {
        return;
    };
    for rendered in &renderings {
        let text = &rendered.manifest;
        let Some(documents) = manifests::documents(text) else {
            return;
        };
        for document in &documents {
            let kind = document["kind"].as_str().expect("text");
            assert!(!kind.contains("Role"), "{document}");
        }
        let pod = &daemon_set(&documents)["spec"]["template"]["spec"];
        for key in ["hostNetwork", "hostIPC"] {
            assert_eq!(pod[key], Value::Null, "{key}");
        }
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = &pod["containers"][0];
        let security = &container["securityContext"];
        let expected = [
            ("privileged", json!(false)),
            ("allowPrivilegeEscalation", json!(false)),
            ("readOnlyRootFilesystem", json!(true)),
        ];
        for (key, value) in expected {
            assert_eq!(security[key], value, "{key}");
        }
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert!(security["seccompProfile"]["type"].is_string());
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let has_reason = |line: &str| {
            let at = lines.iter().position(|found| *found == line);
            let at = at.unwrap_or_else(|| panic!("no line {line:?}"));
            assert!(lines[at - 1].starts_with("# "), "{line} has no reason");
        };
        has_reason("hostPID: true");
        for capability in security["capabilities"]["add"].as_array().expect("a list") {
            has_reason(&format!("- {}", capability.as_str().expect("text")));
        }
        // What of the node is mounted; read-only but for the alert log.
        for volume in pod["volumes"].as_array().expect("a list") {
            if volume["hostPath"].is_null() {
                continue;
            }
            let mounts = container["volumeMounts"].as_array().expect("a list");
            let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]);
            let mount = mount.expect("what is there is mounted");
            let (name, path) = (&mount["name"], &mount["mountPath"]);
            let (name, path) = (name.as_str().expect("text"), path.as_str().expect("text"));
            let read_only = if name == "state" {
                ""
            } else {
                ", readOnly: true"
            };
            has_reason(&format!("- {{name: {name}, mountPath: {path}{read_only}}}"));
        }
    }
}

/// The agent accepts the configuration that the chart writes.
#[test]
fn the_agent_takes_the_chart_s_configuration() {
    let Some(helm) = helm() else { return };
    let mut values = every_value();
    // Certificates are not there to be read.
    values["grpc"] = json!({});
    values["networkPolicy"]["grpcFrom"] = json!([]);
    values["rules"] = json!({});
    for values in [json!({}), values] {
        let rendered = helm.render(&values).expect("it renders");
        let Some(documents) = manifests::documents(&rendered.manifest) else {
            return;
        };
        let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind);
        let config = of_kind("ConfigMap").expect("there is one")["data"]["saker.yaml"].clone();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let token = folder.path().join("token");
        fs::write(&token, "x").expect("it is written");
        let file = folder.path().join("saker.yaml");
        let config = config.as_str().expect("text");
        let config = config.replace(
            "/etc/saker/secrets/siem/token",
            &token.display().to_string(),
        );
        fs::write(&file, &config).expect("it is written");
        let mut check = Command::new(program("saker"));
        check.args(["config", "check", "--config"]).arg(&file);
        let said = output(&mut check);
        assert!(said.is_ok(), "{said:?} of\n{config}");
    }
}

/// Rules of one's own stand beside the shipped ones, and take their place only when told to.
#[test]
fn rules_of_one_s_own_stand_beside_the_shipped_ones() {
    let Some(helm) = helm() else { return };
    let own = "- macro: own\n  condition: evt.type = execve\n";
    let config = |values: &Value| {
        let rendered = helm.render(values).expect("it renders");
        let documents = manifests::documents(&rendered.manifest)?;
        let of_kind = |document: &&Value| document["kind"] == "ConfigMap";
        let map = documents.iter().find(of_kind).expect("there is one");
        Some(map["data"]["saker.yaml"].as_str().expect("text").to_owned())
    };
    let values = json!({"rules": {"own.yaml": own}});
    let Some(beside) = config(&values) else {
        return;
    };
    assert!(beside.contains("keep_shipped: true"), "{beside}");
    let values = json!({"rules": {"own.yaml": own}, "shippedRules": false});
    let alone = config(&values).expect("as before");
    assert!(alone.contains("keep_shipped: false"), "{alone}");
    let none = config(&json!({})).expect("as before");
    assert!(!none.contains("keep_shipped"), "{none}");
}

/// The rules that the chart hands to the Prometheus operator, by Prometheus's own checker, with the unit tests of both files.
#[test]
fn its_prometheus_rules_pass_promtool() {
    let Some(helm) = helm() else { return };
    if Command::new("promtool").arg("--version").output().is_err() {
        return skip("promtool is not installed (Debian: prometheus)");
    }
    let rendered = helm.render(&every_value()).expect("it renders");
    let Some(documents) = manifests::documents(&rendered.manifest) else {
        return;
    };
    let rule = documents
        .iter()
        .find(|document| document["kind"] == "PrometheusRule")
        .expect("there is one");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    // YAML takes JSON.
    fs::write(path("rules.yaml"), rule["spec"].to_string()).expect("it is written");
    output(
        Command::new("promtool")
            .args(["check", "rules"])
            .arg(path("rules.yaml")),
    )
    .expect("the rules are sound");
    for name in ["saker-alerts_test.yaml", "gpu-alerts_test.yaml"] {
        let test = repository().join("deploy/prometheus").join(name);
        let test = fs::read_to_string(test).expect("it is there");
        let test = test.replace("saker-alerts.yaml", "rules.yaml");
        fs::write(path(name), test).expect("it is written");
        let mut run = Command::new("promtool");
        run.args(["test", "rules"]).arg(path(name));
        output(&mut run).expect("each alert fires when it should");
    }
}

fn daemon_set(documents: &[Value]) -> &Value {
    let found = documents
        .iter()
        .find(|document| document["kind"] == "DaemonSet");
    found.expect("there is one")
}
