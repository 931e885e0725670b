//! Fields of what unpicklers ask for.

use saker::event::{Body, Pickle, PyForm, PyText};

use crate::World;

pub fn pickle<'a>(module: &'a [u8], name: &'a [u8]) -> Body<'a> {
    let text = |bytes| PyText {
        bytes,
        form: PyForm::Ascii,
        cut: false,
    };
    Body::Pickle(Pickle {
        module: text(module),
        name: text(name),
        unreadable: false,
    })
}

#[test]
fn a_pickle_shows_what_it_asks_for() {
    let world = World::new();
    let check = |module: &[u8], name: &[u8], field: &str, expected: &str| {
        assert_eq!(world.show(pickle(module, name), field), expected, "{field}");
    };
    check(b"os", b"system", "evt.type", "pickle");
    check(b"os", b"system", "pickle.global", "os.system");
    check(b"os", b"system", "pickle.dangerous", "true");
    check(b"os", b"system", "pickle.class", "exec");
    check(b"os", b"system", "pickle.truncated", "false");
    check(
        b"torch.serialization",
        b"os.system",
        "pickle.component",
        "(torch,serialization,os,system)",
    );
    check(
        b"torch.serialization",
        b"os.system",
        "pickle.dangerous",
        "true",
    );
    check(b"collections", b"OrderedDict", "pickle.dangerous", "false");
    check(b"collections", b"OrderedDict", "pickle.class", "ml-known");
    check(b"os", b"system", "fd.name", "/models/m.pkl");
    check(b"os", b"system", "fd.filename", "m.pkl");
    check(b"os", b"system", "pickle.file", "/models/m.pkl");
    check(b"os", b"system", "python.version", "3.13t");
    check(b"os", b"system", "python.exe", "/bin/python3");
    // A text that could not be read is absent, and what would be made of it too.
    check(b"", b"system", "pickle.module", "<NA>");
    check(b"", b"system", "pickle.global", "<NA>");
    check(b"", b"system", "pickle.dangerous", "<NA>");
    // Text of an encoding of its own.
    let wide: Vec<u8> = "\u{3b1}\u{3b2}"
        .encode_utf16()
        .flat_map(u16::to_ne_bytes)
        .collect();
    let Body::Pickle(mut greek) = pickle(&wide, b"x") else {
        unreachable!("it was made above");
    };
    greek.module.form = PyForm::Ucs2;
    assert_eq!(
        world.show(Body::Pickle(greek), "pickle.module"),
        "\u{3b1}\u{3b2}"
    );
}
