//! Tests and templates as bytes: for what the engine reads once, when it loads.
//!
//! Decoding is total: bytes that mean nothing yield `None`, nesting is bounded, and counts are believed only as far as bytes are left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    expr::{
        FieldArg, FieldRef, Literal, Modifier, Op, Operand, Rhs, Test, Transform, TransformKind,
    },
    fields::Field,
    template::{Part, Template},
};

/// How deep operands may nest.
pub const DEPTH_MAX: usize = 64;

const TRANSFORMS: [TransformKind; 9] = [
    TransformKind::ToLower,
    TransformKind::ToUpper,
    TransformKind::B64,
    TransformKind::Basename,
    TransformKind::Len,
    TransformKind::Join,
    TransformKind::Concat,
    TransformKind::Getopt,
    TransformKind::Val,
];

const MODIFIERS: [Option<Modifier>; 4] = [
    None,
    Some(Modifier::OneOf),
    Some(Modifier::AnyOf),
    Some(Modifier::AllOf),
];

/// Encodes a test; `None` where it nests too deep to be decoded again.
pub fn encode_test(test: &Test) -> Option<Vec<u8>> {
    let mut out = Writer(Vec::new());
    out.test(test)?;
    Some(out.0)
}

/// Decodes a test that fills the bytes.
pub fn decode_test(bytes: &[u8]) -> Option<Test> {
    let mut from = Reader(bytes);
    let test = from.test()?;
    from.0.is_empty().then_some(test)
}

/// Encodes a template; `None` where it nests too deep to be decoded again.
pub fn encode_template(template: &Template) -> Option<Vec<u8>> {
    let mut out = Writer(Vec::new());
    out.count(template.parts.len());
    for part in &template.parts {
        match part {
            Part::Text(text) => {
                out.0.push(0);
                out.bytes(text.as_bytes());
            }
            Part::Field(name, operand) => {
                out.0.push(1);
                out.bytes(name.as_bytes());
                out.operand(operand, 0)?;
            }
        }
    }
    Some(out.0)
}

/// Decodes a template that fills the bytes.
pub fn decode_template(bytes: &[u8]) -> Option<Template> {
    let mut from = Reader(bytes);
    let count = from.count()?;
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        parts.push(match from.byte()? {
            0 => Part::Text(from.text()?),
            1 => Part::Field(from.text()?, from.operand(0)?),
            _ => return None,
        });
    }
    from.0.is_empty().then_some(Template { parts })
}

/// Writes bytes.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// A number of items.
    pub fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u32).to_le_bytes());
    }

    /// Bytes and their number.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn test(&mut self, test: &Test) -> Option<()> {
        self.operand(&test.lhs, 0)?;
        self.0
            .push(Op::ALL.iter().position(|&op| op == test.op)? as u8);
        self.0.push(
            MODIFIERS
                .iter()
                .position(|&modifier| modifier == test.modifier)? as u8,
        );
        match &test.rhs {
            Rhs::None => self.0.push(0),
            Rhs::Values(values) => {
                self.0.push(1);
                self.count(values.len());
                values.iter().for_each(|value| self.literal(value));
            }
            Rhs::Operand(operand) => {
                self.0.push(2);
                self.operand(operand, 0)?;
            }
        }
        Some(())
    }

    fn operand(&mut self, operand: &Operand, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match operand {
            Operand::Field(field) => {
                self.0.push(0);
                self.0
                    .extend_from_slice(&(field.field as u16).to_le_bytes());
                self.arg(&field.arg);
            }
            Operand::Transform(transform) => {
                self.0.push(1);
                self.0
                    .push(TRANSFORMS.iter().position(|&kind| kind == transform.kind)? as u8);
                self.arg(&transform.arg);
                self.operands(&transform.args, depth)?;
            }
            Operand::Literal(literal) => {
                self.0.push(2);
                self.literal(literal);
            }
            Operand::List(operands) => {
                self.0.push(3);
                self.operands(operands, depth)?;
            }
        }
        Some(())
    }

    fn operands(&mut self, operands: &[Operand], depth: usize) -> Option<()> {
        self.count(operands.len());
        operands
            .iter()
            .try_for_each(|operand| self.operand(operand, depth + 1))
    }

    fn arg(&mut self, arg: &FieldArg) {
        match arg {
            FieldArg::None => self.0.push(0),
            FieldArg::Index(index) => {
                self.0.push(1);
                self.0.extend_from_slice(&index.to_le_bytes());
            }
            FieldArg::Key(key) => {
                self.0.push(2);
                self.bytes(key.as_bytes());
            }
        }
    }

    fn literal(&mut self, literal: &Literal) {
        let (tag, word) = match *literal {
            Literal::Bytes(ref bytes) => {
                self.0.push(0);
                return self.bytes(bytes);
            }
            Literal::Uint(value) => (1, value),
            Literal::Int(value) => (2, value as u64),
            Literal::Double(bits) => (3, bits),
            Literal::Bool(value) => (4, u64::from(value)),
            Literal::Ip(address) => {
                self.0.push(5);
                return self.address(address);
            }
            Literal::Net(address, len) => {
                self.0.extend_from_slice(&[6, len]);
                return self.address(address);
            }
        };
        self.0.push(tag);
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.0.push(4);
                self.0.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.0.push(6);
                self.0.extend_from_slice(&address.octets());
            }
        }
    }
}

/// Reads what a [`Writer`] wrote.
pub struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// From the first byte.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        self.take(LEN)?.try_into().ok()
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A number of items, each of which takes at least one byte.
    pub fn count(&mut self) -> Option<usize> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        (count <= self.0.len()).then_some(count)
    }

    /// Bytes and their number.
    pub fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = self.count()?;
        self.take(len)
    }

    /// UTF-8.
    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn test(&mut self) -> Option<Test> {
        let lhs = self.operand(0)?;
        let op = *Op::ALL.get(usize::from(self.byte()?))?;
        let modifier = *MODIFIERS.get(usize::from(self.byte()?))?;
        let rhs = match self.byte()? {
            0 => Rhs::None,
            1 => {
                let count = self.count()?;
                Rhs::Values((0..count).map(|_| self.literal()).collect::<Option<_>>()?)
            }
            2 => Rhs::Operand(self.operand(0)?),
            _ => return None,
        };
        Some(Test {
            lhs,
            op,
            modifier,
            rhs,
        })
    }

    fn operand(&mut self, depth: usize) -> Option<Operand> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match self.byte()? {
            0 => {
                let field = Field::from_index(usize::from(u16::from_le_bytes(self.array()?)))?;
                Operand::Field(FieldRef {
                    field,
                    arg: self.arg()?,
                })
            }
            1 => {
                let kind = *TRANSFORMS.get(usize::from(self.byte()?))?;
                let arg = self.arg()?;
                let args = self.operands(depth)?;
                Operand::Transform(Box::new(Transform { kind, args, arg }))
            }
            2 => Operand::Literal(self.literal()?),
            3 => Operand::List(self.operands(depth)?),
            _ => return None,
        })
    }

    fn operands(&mut self, depth: usize) -> Option<Vec<Operand>> {
        let count = self.count()?;
        (0..count).map(|_| self.operand(depth + 1)).collect()
    }

    fn arg(&mut self) -> Option<FieldArg> {
        Some(match self.byte()? {
            0 => FieldArg::None,
            1 => FieldArg::Index(u32::from_le_bytes(self.array()?)),
            2 => FieldArg::Key(self.text()?.into()),
            _ => return None,
        })
    }

    fn literal(&mut self) -> Option<Literal> {
        Some(match self.byte()? {
            0 => Literal::Bytes(self.bytes()?.into()),
            1 => Literal::Uint(u64::from_le_bytes(self.array()?)),
            2 => Literal::Int(i64::from_le_bytes(self.array()?)),
            3 => Literal::Double(u64::from_le_bytes(self.array()?)),
            4 => Literal::Bool(u64::from_le_bytes(self.array()?) != 0),
            5 => Literal::Ip(self.address()?),
            6 => {
                let len = self.byte()?;
                let address = self.address()?;
                let max = if address.is_ipv4() { 32 } else { 128 };
                (len <= max).then_some(Literal::Net(address, len))?
            }
            _ => return None,
        })
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(match self.byte()? {
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: &Test) {
        let bytes = encode_test(test).expect("nests little");
        assert_eq!(decode_test(&bytes).as_ref(), Some(test));
        for end in 0..bytes.len() {
            assert_eq!(decode_test(&bytes[..end]), None, "cut at {end}");
        }
    }

    fn field(arg: FieldArg) -> Operand {
        Operand::Field(FieldRef {
            field: Field::ProcName,
            arg,
        })
    }

    #[test]
    fn tests_survive_the_round_trip_and_no_cut_decodes() {
        let literals = vec![
            Literal::Bytes(b"\xff\0x".as_slice().into()),
            Literal::Uint(u64::MAX),
            Literal::Int(-1),
            Literal::Double(1.5_f64.to_bits()),
            Literal::Bool(true),
            Literal::Ip("10.0.0.1".parse().unwrap()),
            Literal::Net("2001:db8::".parse().unwrap(), 32),
        ];
        let rhs = Rhs::Values(literals.clone());
        check(&Test {
            lhs: field(FieldArg::Index(2)),
            op: Op::In,
            modifier: Some(Modifier::AnyOf),
            rhs,
        });
        check(&Test {
            lhs: field(FieldArg::Key("a.b".into())),
            op: Op::Exists,
            modifier: None,
            rhs: Rhs::None,
        });
        let transform = Transform {
            kind: TransformKind::Getopt,
            args: vec![
                field(FieldArg::None),
                Operand::List(literals.into_iter().map(Operand::Literal).collect()),
            ],
            arg: FieldArg::Key("t".into()),
        };
        let lhs = Operand::Transform(Box::new(transform.clone()));
        check(&Test {
            lhs,
            op: Op::Regex,
            modifier: None,
            rhs: Rhs::Operand(Operand::Transform(Box::new(transform))),
        });
    }

    #[test]
    fn nesting_is_bounded_both_ways() {
        let mut operand = field(FieldArg::None);
        for _ in 0..DEPTH_MAX + 1 {
            operand = Operand::List(vec![operand]);
        }
        assert_eq!(
            encode_test(&Test {
                lhs: operand,
                op: Op::Exists,
                modifier: None,
                rhs: Rhs::None
            }),
            None
        );
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            bytes.extend_from_slice(&[3, 1, 0, 0, 0]);
        }
        assert_eq!(decode_test(&bytes), None);
    }
}
