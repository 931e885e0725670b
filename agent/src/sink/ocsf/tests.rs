//! What a finding says; that the published models take it is tried in `agent/tests/delivery/ocsf.rs`.

use super::*;
use crate::alert::Alert;

#[test]
fn tags_become_techniques_and_tactics() {
    let check = |tags: &[&str], expected: Value| {
        assert_eq!(attacks(tags).unwrap_or_default(), expected, "{tags:?}");
    };
    let technique = |uid: &str, name: &str, at: &str| json!({"uid": uid, "name": name, "src_url": format!("https://attack.mitre.org/techniques/{at}/")});
    let of_atlas = |uid: &str, name: &str| json!({"uid": uid, "name": name, "src_url": format!("https://atlas.mitre.org/techniques/{uid}")});
    let tactic = |uid: &str, name: &str| json!({"uid": uid, "name": name, "src_url": format!("https://attack.mitre.org/tactics/{uid}/")});
    let shell = technique("T1059", "Command and Scripting Interpreter", "T1059");
    check(&["ml", "T10", "t1x59", "AML.x", "AML.TA1"], Value::Null);
    check(
        &["T1059.004", "mitre_execution", "ml"],
        json!([{
            "technique": shell, "sub_technique": technique("T1059.004", "Unix Shell", "T1059/004"),
            "tactic": tactic("TA0002", "Execution"),
        }]),
    );
    // A tactic of one matrix is not that of the other's techniques.
    check(
        &["AML.T0010.003", "T1195", "mitre_initial_access"],
        json!([
            {"technique": technique("T1195", "Supply Chain Compromise", "T1195"), "tactic": tactic("TA0001", "Initial Access")},
            {"technique": of_atlas("AML.T0010", "ML Supply Chain Compromise"), "sub_technique": of_atlas("AML.T0010.003", "Model")},
        ]),
    );
    check(
        &["aml.ta0004"],
        json!([{"tactic": {"uid": "AML.TA0004", "name": "AML.TA0004", "src_url": "https://atlas.mitre.org/tactics/AML.TA0004"}}]),
    );
    check(
        &["T1234"],
        json!([{"technique": technique("T1234", "T1234", "T1234")}]),
    );
    check(
        &["mitre_impact"],
        json!([{"tactic": tactic("TA0040", "Impact")}]),
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let record = Record::new(&Alert::for_tests("r"));
    let finding = finding(&record);
    assert_eq!(finding["class_uid"], 2004);
    assert_eq!(finding["severity_id"], 3);
    let evidence = finding["evidences"][0].as_object().expect("an object");
    assert!(!evidence.contains_key("process"), "{finding}");
    assert!(!finding.to_string().contains("null"), "{finding}");
}

#[test]
fn a_damaged_record_is_still_a_finding() {
    let mut record = Record::new(&Alert::for_tests("r"));
    record.json = "{".into();
    record.context = Some("[".into());
    assert_eq!(finding(&record)["finding_info"]["title"], "r");
}
