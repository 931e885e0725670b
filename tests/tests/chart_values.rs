//! The Helm chart's values: wrong ones are refused with their names, right ones taken, and none is without effect.

use std::{collections::BTreeSet, fs, path::Path};

use saker_tests::{manifests::Helm, repository};
use serde_json::{Value, json};

fn helm() -> Option<Helm> {
    Helm::or_skip(&repository().join("deploy/helm/saker"))
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let Some(helm) = helm() else { return };
    let (metrics, grpc) = (json!({"port": 9766}), json!({"enabled": true}));
    let rows: Vec<(Value, &[&str])> = vec![
        (json!({"imag": {}}), &["'imag' not allowed"]),
        (
            json!({"image": {"digest": "abc"}}),
            &["/image/digest", "sha256"],
        ),
        // The tag is a value of its own; here it would stand twice.
        (
            json!({"image": {"repository": "registry.internal/saker:1"}}),
            &["/image/repository"],
        ),
        (json!({"image": {"repository": ""}}), &["/image/repository"]),
        (json!({"image": {"tag": 1.0}}), &["/image/tag", "string"]),
        (json!({"image": {"tag": "a b"}}), &["/image/tag"]),
        (json!({"rules": {"own": "x"}}), &["'own' does not match"]),
        (json!({"rules": {"..x.yaml": "x"}}), &["'..x.yaml'"]),
        (json!({"rules": {"x.yaml": ""}}), &["/rules/x.yaml"]),
        (json!({"secretFiles": ["a.b"]}), &["/secretFiles/0"]),
        (json!({"secretFiles": ["Siem"]}), &["/secretFiles/0"]),
        (json!({"secretFiles": ["ok", "-a"]}), &["/secretFiles/1"]),
        (
            json!({"secretFiles": ["a".repeat(57)]}),
            &["/secretFiles/0"],
        ),
        (json!({"secretFiles": ["a", "a"]}), &["/secretFiles"]),
        (
            json!({"runtimeFolder": "run"}),
            &["/runtimeFolder", "pattern"],
        ),
        (
            json!({"runtimeFolder": "/"}),
            &["/runtimeFolder", "pattern"],
        ),
        (json!({"runtimeFolder": "/run/"}), &["/runtimeFolder"]),
        (json!({"runtimeFolder": "/run/../etc"}), &["/runtimeFolder"]),
        // Nothing is looked for there.
        (
            json!({"runtimeFolder": "/var/run/containerd"}),
            &["runtimeFolder", "/var/run/containerd", "cri_sockets"],
        ),
        // Of the node's folders the pod has the one.
        (
            json!({"config": {"containers": {"cri_sockets": ["/host/run/crio/crio.sock"]}}}),
            &[
                "config.containers",
                "/host/run/crio/crio.sock",
                "runtimeFolder",
            ],
        ),
        (
            json!({"runtimeFolder": "/opt/cri", "config": {"containers": {"docker_sockets": ["/opt/cri/docker.sock"]}}}),
            &["config.containers", "/opt/cri/docker.sock", "runtimeFolder"],
        ),
        (
            json!({"config": {"containers": {"cri_sockets": "/host/run/containerd/containerd.sock"}}}),
            &["config.containers.cri_sockets", "list"],
        ),
        (json!({"stateFolder": "/"}), &["/stateFolder", "pattern"]),
        (json!({"stateFolder": "saker"}), &["/stateFolder"]),
        (json!({"stateFolder": "/var//saker"}), &["/stateFolder"]),
        (json!({"listenAddress": "127.0.0.1"}), &["/listenAddress"]),
        (
            json!({"metrics": {"port": 0}}),
            &["/metrics/port", "minimum"],
        ),
        (
            json!({"metrics": {"port": 443}}),
            &["/metrics/port", "1,024"],
        ),
        (json!({"metrics": {"port": 65536}}), &["/metrics/port"]),
        (json!({"metrics": {"port": "9765"}}), &["/metrics/port"]),
        (json!({"grpc": {"port": 1023}}), &["/grpc/port", "1,024"]),
        (
            json!({"metrics": metrics, "grpc": grpc}),
            &["grpc.port", "9766", "metrics.port"],
        ),
        (
            json!({"metrics": {"interval": "30"}}),
            &["/metrics/interval"],
        ),
        (
            json!({"metrics": {"labels": {"release": 1}}}),
            &["/metrics/labels/release"],
        ),
        (
            json!({"seccompProfile": {"type": "Unconfined"}}),
            &["/seccompProfile/type"],
        ),
        (
            json!({"seccompProfile": {"type": "Localhost"}}),
            &["localhostProfile"],
        ),
        (
            json!({"seccompProfile": {"localhostProfile": "x.json"}}),
            &["/seccompProfile/localhostProfile"],
        ),
        (
            json!({"appArmorProfile": {"type": "unconfined"}}),
            &["/appArmorProfile/type"],
        ),
        (
            json!({"appArmorProfile": {"type": "Localhost"}}),
            &["/appArmorProfile", "localhostProfile"],
        ),
        (
            json!({"appArmorProfile": {"localhostProfile": "x"}}),
            &["/appArmorProfile/localhostProfile"],
        ),
        (
            json!({"seLinuxOptions": {"typ": "spc_t"}}),
            &["'typ' not allowed"],
        ),
        (
            json!({"seLinuxOptions": {"type": ""}}),
            &["/seLinuxOptions/type"],
        ),
        (
            json!({"capabilities": {"add": ["SYS_ADMIN"]}}),
            &["'add' not allowed"],
        ),
        (
            json!({"grpc": {"enabled": true, "certManager": {"enabled": true}}}),
            &["/issuerRef/name"],
        ),
        (
            json!({"grpc": {"certManager": {"enabled": true, "issuerRef": {"name": "x"}}}}),
            &["grpc.certManager.enabled", "grpc.enabled"],
        ),
        (
            json!({"priorityClass": {"value": 2_000_001_000}}),
            &["/priorityClass/value"],
        ),
        (
            json!({"priorityClass": {"name": "system-node-critical"}}),
            &["/priorityClass/name"],
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}),
            &["'maxSurge' not allowed"],
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "10"}}}),
            &["/maxUnavailable"],
        ),
        (
            json!({"resources": {"limits": {"memory": "512MB"}}}),
            &["/resources/limits/memory"],
        ),
        (
            json!({"nodeSelector": {"gpu": true}}),
            &["/nodeSelector/gpu", "string"],
        ),
        (json!({"podLabels": {"a": 1}}), &["/podLabels/a", "string"]),
        (json!({"podLabels": {"a": "b c"}}), &["/podLabels/a"]),
        (
            json!({"podLabels": {"a/b/c": "d"}}),
            &["'a/b/c' does not match"],
        ),
        // By these the DaemonSet finds its pods.
        (
            json!({"podLabels": {"app.kubernetes.io/name": "x"}}),
            &["/podLabels/app.kubernetes.io~1name"],
        ),
        (json!({"podAnnotations": {"a": 1}}), &["/podAnnotations/a"]),
        // A word that the API server drops would leave a rule that allows more.
        (
            json!({"networkPolicy": {"metricsFrom": [{"podSelecter": {}}]}}),
            &["/networkPolicy/metricsFrom/0", "podSelecter"],
        ),
        (
            json!({"networkPolicy": {"metricsFrom": [{}]}}),
            &["/networkPolicy/metricsFrom/0"],
        ),
        (
            json!({"networkPolicy": {"egress": [{"to": [{"podSelector": {}}], "port": 443}]}}),
            &["/networkPolicy/egress/0", "'port' not allowed"],
        ),
        (
            json!({"networkPolicy": {"egress": [{"ports": [{"port": 443}]}]}}),
            &["/networkPolicy/egress/0", "'to'"],
        ),
        (
            json!({"networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.1"}}]}]}}),
            &["/ipBlock/cidr"],
        ),
        (
            json!({"networkPolicy": {"grpcFrom": [{"podSelector": {}}]}}),
            &["networkPolicy.grpcFrom", "grpc.enabled"],
        ),
        (json!({"shippedRules": false}), &["shippedRules", "`rules`"]),
        // What the chart itself sets of the configuration, because other parts of it rely on that.
        (
            json!({"config": {"http": {"listen": "0.0.0.0:1234"}}}),
            &["config.http.listen", "metrics.port"],
        ),
        (
            json!({"config": {"http": {"enabled": false}}}),
            &["config.http.enabled"],
        ),
        (
            json!({"config": {"containers": {"host_root": "/"}}}),
            &["config.containers.host_root"],
        ),
        (
            json!({"config": {"alert_log": {"directory": "/x"}}}),
            &["config.alert_log.directory", "stateFolder"],
        ),
        (
            json!({"config": {"grpc": {"tcp": {"listen": "0.0.0.0:1"}}}}),
            &["config.grpc.tcp.listen", "grpc.enabled"],
        ),
        (
            json!({"config": {"grpc": {"tcp": {"tls": {"key": "/k"}}}}}),
            &["config.grpc.tcp.tls", "grpc.secretName"],
        ),
        (
            json!({"config": {"rules": {"paths": ["/x"]}}, "rules": {"a.yaml": "x"}}),
            &["config.rules.paths", "shippedRules"],
        ),
    ];
    let values: Vec<_> = rows.iter().map(|(values, _)| values.clone()).collect();
    for ((values, parts), rendered) in rows.iter().zip(helm.render_each(&values)) {
        let Err(refused) = rendered else {
            panic!("{values} is taken");
        };
        for part in *parts {
            assert!(refused.contains(part), "{values}: {part:?} in {refused}");
        }
    }
}

/// What stands near to the refused, and is meant.
#[test]
fn values_that_make_sense_are_taken() {
    let Some(helm) = helm() else { return };
    let mut values = vec![
        json!({"image": {"repository": "registry.internal:5000/security/saker"}}),
        json!({"image": {"repository": "saker"}}),
        json!({"secretFiles": ["a".repeat(56), "0"]}),
        json!({"metrics": {"port": 1024}, "grpc": {"port": 1024}}),
        json!({"runtimeFolder": "/opt/cri", "config": {"containers": {"cri_sockets": ["/host/opt/cri/s.sock"]}}}),
        json!({"appArmorProfile": null, "seLinuxOptions": {"type": "spc_t"}}),
        json!({"config": {"http": {}, "containers": {"max": 128}, "rules": {"profile": "strict"}}}),
        json!({"priorityClass": {"create": false, "name": "system-node-critical"}}),
        json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}),
        json!({"tolerations": [{"operator": "Exists"}]}),
        json!({"podLabels": {"example.org/team": "ml", "empty": ""}}),
        json!({"networkPolicy": {"egress": [{"to": [{"namespaceSelector": {}}]}]}}),
    ];
    // Every folder in which the agent looks for a runtime by itself, and those above it that still are not the whole node.
    let source = repository().join("agent/src/context/runtime.rs");
    let source = fs::read_to_string(source).expect("it is there");
    let sockets = source.split('"').filter(|text| text.ends_with(".sock"));
    let folders: BTreeSet<_> = sockets
        .filter_map(|socket| Path::new(socket).parent()?.to_str())
        .filter(|folder| folder.starts_with("/run") || folder.starts_with("/var"))
        .collect();
    assert!(folders.len() >= 6, "{folders:?}");
    values.extend(folders.iter().map(|at| json!({"runtimeFolder": at})));
    for (values, rendered) in values.iter().zip(helm.render_each(&values)) {
        assert!(rendered.is_ok(), "{values}: {rendered:?}");
    }
}

/// Nothing can be set that changes nothing: one value at a time, with what else must be set so that it counts.
#[test]
fn every_value_does_something() {
    let Some(helm) = helm() else { return };
    let rules = json!({"a.yaml": "- macro: a\n  condition: evt.type = execve\n"});
    let none = json!({});
    let grpc = json!({"grpc": {"enabled": true}});
    let issuer = json!({"name": "a"});
    let certified =
        json!({"grpc": {"enabled": true, "certManager": {"enabled": true, "issuerRef": issuer}}});
    let monitored = json!({"metrics": {"serviceMonitor": true}});
    let peers = json!([{"podSelector": {}}]);
    let local = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a"}});
    let local_too = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "a"}});
    let rows = [
        ("image.repository", json!("a/b"), &none),
        ("image.tag", json!("1"), &none),
        (
            "image.digest",
            json!(format!("sha256:{}", "0".repeat(64))),
            &none,
        ),
        ("image.pullPolicy", json!("Always"), &none),
        ("imagePullSecrets", json!([{"name": "a"}]), &none),
        ("config", json!({"gpu": {"enabled": false}}), &none),
        ("rules", rules.clone(), &none),
        ("shippedRules", json!(false), &json!({ "rules": rules })),
        ("secretFiles", json!(["a"]), &none),
        ("runtimeFolder", json!("/run/crio"), &none),
        ("stateFolder", json!("/var/lib/other"), &none),
        ("capabilities.sysAdmin", json!(false), &none),
        ("capabilities.kernelBefore511", json!(true), &none),
        ("gpu.visibleDevices", json!("void"), &none),
        ("gpu.runtimeClassName", json!("nvidia"), &none),
        ("nodeSelector", json!({"a": "b"}), &none),
        ("tolerations", json!([]), &none),
        ("resources.requests", json!({"cpu": "1"}), &none),
        ("resources.limits", json!({"memory": "1Gi"}), &none),
        ("priorityClass.create", json!(false), &none),
        ("priorityClass.name", json!("a"), &none),
        ("priorityClass.value", json!(1), &none),
        ("updateStrategy.type", json!("OnDelete"), &none),
        (
            "updateStrategy.rollingUpdate.maxUnavailable",
            json!(1),
            &none,
        ),
        ("seccompProfile.type", json!("RuntimeDefault"), &none),
        ("seccompProfile.localhostProfile", json!("b"), &local),
        ("appArmorProfile.type", json!("RuntimeDefault"), &none),
        ("appArmorProfile.localhostProfile", json!("b"), &local_too),
        ("seLinuxOptions.user", json!("a"), &none),
        ("seLinuxOptions.role", json!("a"), &none),
        ("seLinuxOptions.type", json!("a"), &none),
        ("seLinuxOptions.level", json!("a"), &none),
        ("listenAddress", json!("::"), &none),
        ("metrics.port", json!(1024), &none),
        ("metrics.serviceMonitor", json!(true), &none),
        ("metrics.prometheusRule", json!(true), &none),
        ("metrics.labels", json!({"a": "b"}), &monitored),
        ("metrics.interval", json!("5s"), &monitored),
        ("grpc.enabled", json!(true), &none),
        ("grpc.port", json!(1024), &grpc),
        ("grpc.secretName", json!("a"), &grpc),
        (
            "grpc.certManager.enabled",
            json!(true),
            &json!({"grpc": {"enabled": true, "certManager": {"issuerRef": {"name": "a"}}}}),
        ),
        ("grpc.certManager.issuerRef.name", json!("b"), &certified),
        (
            "grpc.certManager.issuerRef.kind",
            json!("ClusterIssuer"),
            &certified,
        ),
        (
            "grpc.certManager.issuerRef.group",
            json!("example.org"),
            &certified,
        ),
        ("grpc.certManager.duration", json!("1h"), &certified),
        ("grpc.certManager.renewBefore", json!("1h"), &certified),
        ("networkPolicy.enabled", json!(false), &none),
        ("networkPolicy.metricsFrom", peers.clone(), &none),
        ("networkPolicy.grpcFrom", peers.clone(), &grpc),
        ("networkPolicy.egress", json!([{ "to": peers }]), &none),
        ("podAnnotations", json!({"a": "b"}), &none),
        ("podLabels", json!({"a": "b"}), &none),
    ];
    // The others of a row alone, once for all rows that have the same.
    let mut values: Vec<Value> = Vec::new();
    let mut pairs = Vec::new();
    for (path, value, others) in &rows {
        let without = values.iter().position(|found| found == *others);
        let without = without.unwrap_or(values.len());
        if without == values.len() {
            values.push((*others).clone());
        }
        let mut with = (*others).clone();
        let place = path.split('.').fold(&mut with, |at, key| &mut at[key]);
        *place = value.clone();
        pairs.push((path, without, values.len()));
        values.push(with);
    }
    let rendered = helm.render_each(&values);
    for (path, without, with) in pairs {
        let of = |at: usize| &rendered[at].as_ref().expect("it renders").manifest;
        // `Localhost` cannot stand without the row behind it, which sets both.
        if *path != "seccompProfile.type" {
            assert_ne!(of(without), of(with), "{path} does nothing");
        }
    }
    let schema = repository().join("deploy/helm/saker/values.schema.json");
    let schema = fs::read_to_string(schema).expect("it is there");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let mut known = BTreeSet::new();
    leaves(&schema, "", &mut known);
    let tried: BTreeSet<_> = rows.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(known, tried);
    let own = repository().join("deploy/helm/saker/values.yaml");
    let own = fs::read_to_string(own).expect("it is there");
    for path in &known {
        let top = path.split('.').next().expect("a word");
        let has = own.lines().any(|line| line.starts_with(&format!("{top}:")));
        assert!(has, "values.yaml has no {top}");
    }
}

/// The values of a schema that have no values inside.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let inner = schema["properties"].as_object().into_iter().flatten();
    // A name that is refused is none.
    let inner: Vec<_> = inner.filter(|(_, schema)| **schema != false).collect();
    if inner.is_empty() {
        found.insert(path.to_owned());
    }
    for (name, schema) in inner {
        match path {
            // Helm's own, for charts with charts inside.
            "" if name == "global" => {}
            "" => leaves(schema, name, found),
            _ => leaves(schema, &format!("{path}.{name}"), found),
        }
    }
}

/// What whoever installs it must know of his own values is said at the end.
#[test]
fn the_notes_say_what_is_shut() {
    let Some(helm) = helm() else { return };
    let sink = json!({"sinks": {"http": [{"name": "a", "url": "https://siem.internal/"}]}});
    let to = json!([{"to": [{"podSelector": {}}]}]);
    let rows = [
        (json!({}), vec![]),
        (json!({ "config": sink }), vec!["networkPolicy.egress"]),
        (
            json!({"config": sink, "networkPolicy": {"egress": to}}),
            vec![],
        ),
        (
            json!({"grpc": {"enabled": true}, "networkPolicy": {"metricsFrom": []}}),
            vec!["networkPolicy.metricsFrom", "networkPolicy.grpcFrom"],
        ),
        (
            json!({"config": sink, "networkPolicy": {"enabled": false}}),
            vec![],
        ),
    ];
    let values: Vec<_> = rows.iter().map(|(values, _)| values.clone()).collect();
    for ((values, expected), rendered) in rows.iter().zip(helm.render_each(&values)) {
        let notes = rendered.expect("it renders").notes;
        let said: Vec<_> = notes
            .lines()
            .filter_map(|line| line.split_once(" is empty: "))
            .map(|(what, _)| what)
            .collect();
        assert_eq!(said, *expected, "{values}");
    }
}
