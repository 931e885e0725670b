//! The offsets that the kernel programs use, against those that another reader of the same type information finds.

use std::path::Path;
use std::process::Command;

use saker::source::offsets;
use saker_ebpf::config::{ABSENT, FIELDS, SIZE};
use serde_json::Value;

/// Where a member lies according to bpftool's listing; it does the parsing, this only walks.
fn offset(types: &[Value], number: usize, path: &[&str]) -> Option<u64> {
    let [name, rest @ ..] = path else {
        return Some(0);
    };
    let outer = resolve(types, number)?;
    for member in outer["members"].as_array()? {
        let inner = member["type_id"].as_u64()? as usize;
        let here = member["bits_offset"].as_u64()?;
        let below = if member["name"] == *name {
            offset(types, inner, rest)
        } else if member["name"] == "(anon)" {
            offset(types, inner, path)
        } else {
            None
        };
        if let Some(below) = below {
            return Some(here + below);
        }
    }
    None
}

fn resolve(types: &[Value], number: usize) -> Option<&Value> {
    let found = types.get(number.checked_sub(1)?)?;
    match found["kind"].as_str()? {
        "TYPEDEF" | "CONST" | "VOLATILE" | "RESTRICT" | "TYPE_TAG" => {
            resolve(types, found["type_id"].as_u64()? as usize)
        }
        _ => Some(found),
    }
}

#[test]
fn offsets_are_those_of_bpftool() {
    if !Path::new(offsets::KERNEL_BTF).exists() {
        return saker_tests::skip("this kernel has no BTF");
    }
    let listing = Command::new("bpftool")
        .args(["-j", "btf", "dump", "file", offsets::KERNEL_BTF])
        .output();
    let listing = match listing {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            return saker_tests::skip(&format!(
                "bpftool: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Err(error) => return saker_tests::skip(&format!("bpftool: {error}")),
    };
    let listing: Value = serde_json::from_slice(&listing).expect("bpftool writes JSON");
    let types = listing["types"].as_array().expect("an array of types");

    let found = offsets::read(None).expect("the kernel's BTF is readable");
    let mut compared = 0;
    for (field, offset_used) in FIELDS.iter().zip(found.by_field) {
        let at = |path: &str| {
            let path: Vec<&str> = path.split('.').collect();
            types
                .iter()
                .enumerate()
                .filter(|(_, found)| found["name"] == field.type_name && found["kind"] == "STRUCT")
                .find_map(|(index, found)| match path[..] {
                    // Not a member: how large the whole is.
                    [SIZE] => found["size"].as_u64().map(|bytes| bytes * 8),
                    _ => offset(types, index + 1, &path),
                })
        };
        // Kernels call some members differently: the first name that there is counts.
        let expected = field.path.split('|').find_map(at).map(|bits| bits / 8);
        let used = (offset_used != ABSENT).then_some(u64::from(offset_used));
        assert_eq!(used, expected, "{}.{}", field.type_name, field.path);
        compared += 1;
    }
    assert_eq!(compared, FIELDS.len());
}
