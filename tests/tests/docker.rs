//! Alerts name the container as a real Docker daemon knows it.

use saker_tests::{Agent, docker::Docker};

const IMAGE: &str = "registry.internal/ml-trainer:v1";

#[test]
fn dockers_containers_are_named_brief_ones_too() {
    let Some(docker) = Docker::start_or_skip() else {
        return;
    };
    docker.load(IMAGE);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("rules.yaml");
    let output = "marked (%proc.args %container.id %container.full_id %container.name %container.type \
                  %container.image %container.image.repository %container.image.tag %container.image.id %container.label.role \
                  %container.privileged %container.user %container.gpus %container.mount.dest[/etc] %container.mount.rdwr[/etc] \
                  %container.incomplete %container.host_network %container.start_ts)";
    let rule = format!(
        "- rule: Marked\n  desc: every marked start\n  condition: evt.type = execve and container and proc.args contains marked\n  \
         output: {output}\n  priority: DEBUG\n"
    );
    std::fs::write(&rules, rule).expect("the rule is written");
    let config = folder.path().join("agent.yaml");
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\nalerts: {{window_s: 0}}\ncontainers: {{cri_sockets: [], docker_sockets: ['{}'], hold_ms: 10000}}\n",
        docker.socket().display()
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let mut agent = Agent::start_with(&config, &["--rules", rules.to_str().expect("UTF-8")]);
    let node = folder.path().join("gpu");
    saker_tests::make_device(&node, 195, 0);
    let device = format!("{}:/dev/nvidia0", node.display());
    for round in 0..5 {
        let (name, marker) = (format!("brief-{round}"), format!("marked-{round}"));
        // Removed as soon as it ends, and it ends at once.
        let args = [
            "run",
            "--rm",
            "--network",
            "none",
            "--name",
            &name,
            "--label",
            "role=worker",
            "--user",
            "1000:1000",
            "--device",
            &device,
            "--volume",
            "/etc:/host/etc:ro",
            IMAGE,
            "/bin/true",
            &marker,
        ];
        docker.docker(&args);
        let alert = agent.await_alert(&marker, |alert| {
            alert["output_fields"]["proc.args"] == *marker
                && alert["output_fields"]["container.name"] == *name
        });
        let fields = &alert["output_fields"];
        let expected = [
            ("container.type", "docker"),
            ("container.image", IMAGE),
            ("container.image.repository", "registry.internal/ml-trainer"),
            ("container.image.tag", "v1"),
            ("container.label.role", "worker"),
            ("container.user", "1000:1000"),
            ("container.mount.dest[/etc]", "/host/etc"),
            ("container.mount.rdwr[/etc]", "false"),
        ];
        for (field, value) in expected {
            assert_eq!(fields[field], value, "{field} of {fields}");
        }
        for field in [
            "container.incomplete",
            "container.privileged",
            "container.host_network",
        ] {
            assert_eq!(fields[field], false, "{field} of {fields}");
        }
        // Docker names the node on the host, not the one in the container.
        assert!(fields["container.gpus"].is_array(), "{fields}");
        let id = fields["container.full_id"].as_str().expect("an id");
        assert_eq!(
            (id.len(), &id[..12]),
            (64, fields["container.id"].as_str().expect("an id"))
        );
        let image_id = fields["container.image.id"].as_str().expect("an id");
        assert!(
            docker
                .docker(&["image", "inspect", IMAGE])
                .contains(image_id),
            "{image_id}"
        );
    }
    saker_tests::agent::assert_books_close(&agent.stop());
}
