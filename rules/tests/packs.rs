//! The shipped rules as a whole: their unit tests pass, each rule has one in which it must fire and one in which it must not, each says
//! what it is about, and the profiles are what they claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use saker_rules::{
    bundle::Bundle,
    compile::CompileOptions,
    fields::Field,
    loader::{LoadOptions, SourceFile, load},
    packs,
    ruleset::{Priority, Profile, Rule},
    unit_test::{self, UnitTest},
};

/// Techniques of MITRE's ATT&CK and ATLAS (2026.09) that rules name, as they are called there: an id that is not here is a slip until looked up. ATLAS has
/// none for persistence and for defences that are impaired as such: what takes the machine itself is AML.T0112.
const TECHNIQUES: &[(&str, &str)] = &[
    ("AML.T0010", "AI Supply Chain Compromise"),
    ("AML.T0010.001", "AI Software"),
    ("AML.T0010.002", "Data"),
    ("AML.T0010.003", "Model"),
    ("AML.T0010.004", "Container Registry"),
    ("AML.T0011", "User Execution"),
    ("AML.T0011.000", "Unsafe AI Artifacts"),
    ("AML.T0011.001", "Malicious Package"),
    ("AML.T0012", "Valid Accounts"),
    ("AML.T0020", "Training Data Poisoning"),
    ("AML.T0025", "Exfiltration via Cyber Means"),
    ("AML.T0029", "Denial of AI Service"),
    ("AML.T0034", "Cost Harvesting"),
    ("AML.T0035", "AI Artifact Collection"),
    ("AML.T0049", "Exploit Public-Facing Application"),
    ("AML.T0050", "Command and Scripting Interpreter"),
    ("AML.T0055", "Unsecured Credentials"),
    ("AML.T0072", "Cyber Communication Channel"),
    ("AML.T0074", "Masquerading"),
    ("AML.T0089", "Enterprise Environment Discovery"),
    ("AML.T0090", "OS Credential Dumping"),
    ("AML.T0105", "Escape to Host"),
    ("AML.T0112", "Machine Compromise"),
    ("AML.T0123", "Obfuscated Files or Information"),
    ("AML.T0125", "Create Account"),
    ("AML.T0132", "Misconfigured or Publicly Exposed AI Services"),
    ("T1003.008", "/etc/passwd and /etc/shadow"),
    ("T1005", "Data from Local System"),
    ("T1027", "Obfuscated Files or Information"),
    ("T1027.004", "Compile After Delivery"),
    ("T1036", "Masquerading"),
    ("T1036.005", "Match Legitimate Resource Name or Location"),
    ("T1037.004", "RC Scripts"),
    ("T1041", "Exfiltration Over C2 Channel"),
    ("T1048", "Exfiltration Over Alternative Protocol"),
    ("T1053.002", "At"),
    ("T1053.003", "Cron"),
    ("T1053.006", "Systemd Timers"),
    ("T1055.008", "Ptrace System Calls"),
    ("T1059", "Command and Scripting Interpreter"),
    ("T1059.004", "Unix Shell"),
    ("T1059.006", "Python"),
    ("T1071.004", "DNS"),
    ("T1074.001", "Local Data Staging"),
    ("T1082", "System Information Discovery"),
    ("T1083", "File and Directory Discovery"),
    ("T1095", "Non-Application Layer Protocol"),
    ("T1098.004", "SSH Authorized Keys"),
    ("T1105", "Ingress Tool Transfer"),
    ("T1133", "External Remote Services"),
    ("T1136.001", "Local Account"),
    ("T1190", "Exploit Public-Facing Application"),
    ("T1195", "Supply Chain Compromise"),
    (
        "T1195.001",
        "Compromise Software Dependencies and Development Tools",
    ),
    ("T1204.003", "Malicious Image"),
    ("T1219", "Remote Access Tools"),
    ("T1496", "Resource Hijacking"),
    ("T1496.001", "Compute Hijacking"),
    ("T1499", "Endpoint Denial of Service"),
    ("T1525", "Implant Internal Image"),
    ("T1528", "Steal Application Access Token"),
    ("T1543.002", "Systemd Service"),
    ("T1546.004", "Unix Shell Configuration Modification"),
    ("T1546.018", "Python Startup Hooks"),
    ("T1547.006", "Kernel Modules and Extensions"),
    ("T1548.003", "Sudo and Sudo Caching"),
    ("T1552", "Unsecured Credentials"),
    ("T1552.001", "Credentials In Files"),
    ("T1552.004", "Private Keys"),
    ("T1552.005", "Cloud Instance Metadata API"),
    ("T1552.007", "Container API"),
    ("T1554", "Compromise Host Software Binary"),
    ("T1557", "Adversary-in-the-Middle"),
    ("T1560", "Archive Collected Data"),
    ("T1562", "Impair Defenses"),
    ("T1562.001", "Disable or Modify Tools"),
    ("T1567", "Exfiltration Over Web Service"),
    ("T1574.006", "Dynamic Linker Hijacking"),
    ("T1610", "Deploy Container"),
    ("T1611", "Escape to Host"),
    ("T1620", "Reflective Code Loading"),
];

/// Each is tried out, which takes a while.
static TUNING: LazyLock<Vec<packs::Tuning>> = LazyLock::new(packs::tuning);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packs")
}

fn shipped(profile: Option<Profile>) -> Vec<Rule> {
    let options = LoadOptions {
        profile,
        ..LoadOptions::default()
    };
    load(&packs::shipped(), &options).ruleset.rules
}

/// The files of tests, beside the packs.
fn test_files() -> Vec<PathBuf> {
    let topics = fs::read_dir(folder()).expect("the packs are there");
    let mut files: Vec<PathBuf> = topics
        .filter_map(|topic| fs::read_dir(topic.ok()?.path()).ok())
        .flatten()
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with("_test.yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_unit_test_passes() {
    let mut wrong = Vec::new();
    for file in test_files() {
        let outcomes = unit_test::run_file(&file).expect("the tests can be read");
        let failed = outcomes.into_iter().filter(|outcome| !outcome.is_passed());
        wrong.extend(failed.map(|outcome| format!("{}: {outcome:?}", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_must_fire_and_must_not() {
    // By rule: kinds of the events that raise it. By file of rules: all events, with the rules that each raises.
    let mut fires: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut events: BTreeMap<String, Vec<(String, BTreeSet<String>)>> = BTreeMap::new();
    for file in test_files() {
        let text = fs::read_to_string(&file).expect("it can be read");
        let name = file.display().to_string();
        let topic = file.parent().and_then(Path::file_name).expect("a topic");
        for test in unit_test::parse(&name, &text).expect("it can be parsed") {
            for (index, kind) in test.kinds().enumerate() {
                let kind = kind.unwrap_or_default();
                let raises = raised(&test, index);
                for rule in &raises {
                    fires.entry(rule.clone()).or_default().insert(kind.clone());
                }
                for rules in &test.rules {
                    let path = format!("saker/{}/{rules}", topic.to_string_lossy());
                    let event = (kind.clone(), raises.clone());
                    events.entry(path).or_default().push(event);
                }
            }
        }
    }
    let mut missing = Vec::new();
    for rule in shipped(None) {
        let Some(kinds) = fires.get(&rule.name) else {
            missing.push(format!("{}: no test raises it", rule.name));
            continue;
        };
        let near = events.get(&rule.origin.0).is_some_and(|events| {
            events
                .iter()
                .any(|(kind, raises)| kinds.contains(kind) && !raises.contains(&rule.name))
        });
        if !near {
            missing.push(format!("{}: no event of its kind leaves it", rule.name));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

fn raised(test: &UnitTest, event: usize) -> BTreeSet<String> {
    test.expected()
        .filter(|alert| alert.event == event)
        .map(|alert| alert.rule.clone())
        .collect()
}

/// Rules on the node's own state, which nobody acts in: their alerts say which node, and what.
const STATES: &[&str] = &[
    "Events were lost",
    "A cgroup made more events than its share",
    "Configuration or rules could not be reloaded",
    "Configuration was changed",
    "Rules were reloaded",
    "GPU does not answer",
];

#[test]
fn every_rule_says_what_it_is_about() {
    let known: BTreeSet<&str> = TECHNIQUES.iter().map(|(id, _)| *id).collect();
    let mut wrong = Vec::new();
    for rule in shipped(None) {
        let mut say = |what: String| wrong.push(format!("{}: {what}", rule.name));
        if rule.desc.split_whitespace().count() < 10 {
            say("its description is too short to help".into());
        }
        if !has_reference(&rule.desc) {
            say("its description refers to nothing to read on".into());
        }
        let is_attack = |tag: &&String| {
            tag.strip_prefix('T')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let is_atlas = |tag: &&String| tag.starts_with("AML.T");
        for id in rule
            .tags
            .iter()
            .filter(|tag| is_attack(tag) || is_atlas(tag))
        {
            if !known.contains(id.as_str()) {
                say(format!("{id} is not in the table of techniques"));
            }
        }
        if !rule.tags.iter().any(|tag| is_attack(&tag)) {
            say("it names no technique of ATT&CK".into());
        }
        if !rule.tags.iter().any(|tag| is_atlas(&tag)) {
            say("it names no technique of ATLAS".into());
        }
        let shown: Vec<Field> = rule
            .output
            .fields()
            .iter()
            .map(|field| field.field)
            .collect();
        for (what, fields) in wanted_of_output(&rule.name) {
            if !fields.iter().any(|field| shown.contains(field)) {
                say(format!("its output does not say {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Somebody else's page, a CVE, or a page of ours that is there.
fn has_reference(desc: &str) -> bool {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_page = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        word.starts_with("docs/") && docs.join(word).is_file()
    };
    desc.contains("https://") || desc.contains("CVE-20") || desc.split_whitespace().any(is_page)
}

/// Who, what and where: of each one of the fields.
fn wanted_of_output(rule: &str) -> Vec<(&'static str, &'static [Field])> {
    if STATES.contains(&rule) {
        return vec![("on which node", &[Field::EvtHostname])];
    }
    vec![
        ("which process", &[Field::ProcPid]),
        ("as whom", &[Field::UserName]),
        ("by which command", &[Field::ProcCmdline]),
        ("in which container", &[Field::ContainerId]),
        ("of which image", &[Field::ContainerImageRepository]),
        ("in which pod", &[Field::K8SPodName]),
        ("in which namespace", &[Field::K8SNsName]),
    ]
}

#[test]
fn every_rule_can_be_tuned_and_all_that_is_there_to_be_tuned_is_used() {
    let tuning = &*TUNING;
    let mut wrong = Vec::new();
    for rule in shipped(None) {
        if !tuning
            .iter()
            .any(|tuning| tuning.rules.contains(&rule.name))
        {
            wrong.push(format!(
                "{}: no list or macro to tune changes it",
                rule.name
            ));
        }
    }
    for tuning in tuning {
        if tuning.rules.is_empty() {
            wrong.push(format!("{}: it changes no rule", tuning.name));
        }
        if tuning.purpose.split_whitespace().count() < 4 {
            wrong.push(format!("{}: it does not say what it is for", tuning.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is named as an exception is one: with all of them true none of their rules fires on the events that must raise them.
#[test]
fn exceptions_hold_rules_back() {
    let text = |name: &str| fs::read_to_string(name).expect("it can be read");
    let mut exceptions = String::new();
    let mut excepted = BTreeSet::new();
    for tuning in &*TUNING {
        let files = packs::shipped();
        let is_empty = format!("- macro: {}\n  condition: (never_true)\n", tuning.name);
        if files.iter().any(|file| file.text.contains(&is_empty)) {
            exceptions += &format!(
                "- macro: {}\n  condition: (always_true or evt.type exists)\n",
                tuning.name
            );
            excepted.extend(tuning.rules.iter().cloned());
        }
    }
    assert!(excepted.len() > 20, "{excepted:?}");
    let mut files = packs::shipped();
    files.push(SourceFile::new("exceptions.yaml", exceptions));
    let report = load(&files, &LoadOptions::default());
    assert!(!report.has_errors(), "{}", report.render(false));
    let bundle = Bundle::compile(&report.ruleset, &CompileOptions::default()).expect("it compiles");
    let mut wrong = Vec::new();
    for file in test_files() {
        let name = file.display().to_string();
        for test in unit_test::parse(&name, &text(&name)).expect("it can be parsed") {
            // What it expects of these rules is not raised; what it does not expect, of other packs, is not looked at.
            let missing = unit_test::run(&test, bundle.clone()).missing;
            let fired = test.expected().filter(|alert| !missing.contains(alert));
            wrong.extend(
                fired
                    .filter(|alert| excepted.contains(&alert.rule))
                    .map(|alert| format!("{}: {alert:?}", test.name)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn profiles_are_what_they_claim() {
    let enabled = |profile| -> BTreeSet<String> {
        shipped(Some(profile))
            .into_iter()
            .filter(|rule| rule.enabled)
            .map(|rule| rule.name)
            .collect()
    };
    let [strict, default, observe] = Profile::ALL.map(enabled);
    assert!(default.is_subset(&strict), "strict has all of default");
    assert!(strict.is_subset(&observe), "observe has all of strict");
    assert!(default.len() >= 45, "{}", default.len());
    assert!(default.len() < strict.len() && strict.len() < observe.len());
    assert_eq!(observe.len(), shipped(None).len());
    // What wakes somebody is at work everywhere, but for what a node without the control would always tell.
    let silent: Vec<_> = shipped(Some(Profile::Default))
        .into_iter()
        .filter(|rule| !rule.enabled && rule.priority <= Priority::Critical)
        .map(|rule| rule.name)
        .collect();
    assert_eq!(silent, ["GPU container is privileged"]);
}
