//! `dns.*` and `tls.*`: what packets say.

use saker_rules::{fields::Field, value::Value};

use super::{Carried, EventView};
use crate::context::{dns::Answer, tls::Hello};

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field) -> Option<Value<'a>> {
    match view.carried? {
        Carried::Dns(answer) => of_answer(view, answer, field),
        Carried::Tls(hello) => of_hello(view, hello, field),
    }
}

fn of_answer<'a>(view: &'a EventView<'_>, answer: &'a Answer, field: Field) -> Option<Value<'a>> {
    Some(match field {
        Field::DnsName => Value::Bytes(answer.name.as_ref()?.as_bytes()),
        Field::DnsType => super::known(answer.rtype.as_bytes())?,
        Field::DnsRcode => Value::Bytes(answer.rcode.as_bytes()),
        Field::DnsAnswers | Field::DnsNets => {
            view.list(answer.addresses.iter().copied().map(Value::Ip))
        }
        Field::DnsCnames => {
            let names = answer.cnames.iter();
            view.list(names.map(|name| Value::Bytes(name.as_bytes())))
        }
        Field::DnsServer => return super::fd::value(view, Field::FdSip),
        Field::DnsMalformed => Value::Bool(answer.malformed),
        _ => return None,
    })
}

fn of_hello<'a>(view: &'a EventView<'_>, hello: &'a Hello, field: Field) -> Option<Value<'a>> {
    Some(match field {
        Field::TlsSni => Value::Bytes(hello.sni.as_deref()?),
        Field::TlsAlpn => view.list(hello.alpn.iter().map(|name| Value::Bytes(name))),
        Field::TlsVersion => Value::Bytes(hello.version?.as_bytes()),
        Field::TlsMalformed => Value::Bool(hello.malformed),
        _ => return None,
    })
}
