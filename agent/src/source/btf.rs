//! A reader for the kernel's own type information (BTF), just large enough to say where a struct member lies.
//!
//! aya-obj parses BTF too, but keeps its types private. This one indexes 150,000 types into one vector of positions
//! and reads the rest from the bytes as asked. The bytes can come from a file that a user names, so nothing in them is
//! trusted: every access is checked, every walk is bounded.

use std::collections::HashMap;

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
/// Modifiers and anonymous members may nest; real kernels stay below ten.
const DEPTH_MAX: u32 = 32;

/// What is wrong with a BTF file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// It does not start as BTF of this byte order does.
    #[error("it is not BTF of this machine's byte order")]
    Magic,
    /// A length or a position leads outside the file.
    #[error("it ends before its contents do, at byte {0}")]
    Short(usize),
    /// A type of a kind that this reader does not know, so that its length is unknown too.
    #[error("type {id} has the unknown kind {kind}")]
    Kind {
        /// Number of the type.
        id: usize,
        /// Number of the kind.
        kind: u32,
    },
}

/// Why a member was not found.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MemberError {
    /// No struct has that name.
    #[error("no struct {0}")]
    NoStruct(String),
    /// The struct has no such member.
    #[error("no member {0}")]
    NoMember(String),
    /// The member is a bit field.
    #[error("{0} is a bit field")]
    BitField(String),
}

/// Where a member lies in its struct, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the start of the outermost struct.
    pub offset: u32,
    /// Size of the member's type; 0 when it cannot be told.
    pub size: u32,
}

/// Parsed type information.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Position of each type in `bytes`, by its number less one.
    types: Vec<u32>,
    /// Structs and unions by name. Several can share one: a struct private to a file may be named like another.
    structs: HashMap<Vec<u8>, Vec<u32>>,
}

#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    members: u32,
    has_bit_fields: bool,
    name: u32,
    /// Size or type number, by kind.
    size_or_type: u32,
    /// Where the kind's own data starts.
    tail: usize,
}

mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

impl Btf {
    /// Reads the contents of `/sys/kernel/btf/vmlinux` or of a file like it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at: usize| word(&bytes, at).ok_or(BtfError::Short(at));
        if bytes.len() < HEADER_BYTES {
            return Err(BtfError::Short(bytes.len()));
        }
        if u16::from_ne_bytes([bytes[0], bytes[1]]) != MAGIC {
            return Err(BtfError::Magic);
        }
        let header = word(4)? as usize;
        let start = header.saturating_add(word(8)? as usize);
        let end = start.saturating_add(word(12)? as usize);
        let strings = header.saturating_add(word(16)? as usize);
        if end > bytes.len() || strings > bytes.len() {
            return Err(BtfError::Short(bytes.len()));
        }

        let mut types = Vec::new();
        let mut structs: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
        let mut at = start;
        while at < end {
            types.push(u32::try_from(at).map_err(|_| BtfError::Short(at))?);
            let found = type_at(&bytes, at).ok_or(BtfError::Short(at))?;
            if matches!(found.kind, kind::STRUCT | kind::UNION) && found.name != 0 {
                let name = string(&bytes, strings, found.name).ok_or(BtfError::Short(at))?;
                let number = types.len() as u32;
                match structs.get_mut(name) {
                    Some(numbers) => numbers.push(number),
                    None => {
                        structs.insert(name.to_vec(), vec![number]);
                    }
                }
            }
            let tail = tail_bytes(&found).ok_or(BtfError::Kind {
                id: types.len(),
                kind: found.kind,
            })?;
            at = found.tail + tail;
        }
        Ok(Self {
            bytes,
            strings,
            types,
            structs,
        })
    }

    /// Finds a member by its path, such as `f_path.dentry`. Anonymous structs and unions on the way are not named.
    pub fn member(&self, type_name: &str, path: &str) -> Result<Member, MemberError> {
        let numbers = self
            .structs
            .get(type_name.as_bytes())
            .ok_or_else(|| MemberError::NoStruct(type_name.to_owned()))?;
        let mut first_error = None;
        for number in numbers {
            match self.member_of(*number, path) {
                Ok(member) => return Ok(member),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| MemberError::NoStruct(type_name.to_owned())))
    }

    /// Bytes of the struct or union with this name; of several the first.
    pub fn size_of(&self, type_name: &str) -> Option<u32> {
        let numbers = self.structs.get(type_name.as_bytes())?;
        numbers.iter().find_map(|number| self.size(*number, 0))
    }

    /// The type number of the only struct with this name.
    pub fn struct_number(&self, name: &str) -> Option<u32> {
        match self.structs.get(name.as_bytes())?[..] {
            [number] => Some(number),
            _ => None,
        }
    }

    /// The type number of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        let at = self.types.iter().position(|at| {
            type_at(&self.bytes, *at as usize).is_some_and(|found| {
                found.kind == kind::FUNC
                    && string(&self.bytes, self.strings, found.name) == Some(name.as_bytes())
            })
        })?;
        u32::try_from(at + 1).ok()
    }

    /// The number that an enum gives to a name.
    pub fn enum_value(&self, type_name: &str, name: &str) -> Option<u32> {
        let enums = self.types.iter().filter_map(|at| {
            let found = type_at(&self.bytes, *at as usize)?;
            let is_it = found.kind == kind::ENUM
                && string(&self.bytes, self.strings, found.name)? == type_name.as_bytes();
            is_it.then_some(found)
        });
        let mut values =
            enums.flat_map(|found| (0..found.members as usize).map(move |at| found.tail + at * 8));
        values.find_map(|at| {
            let value_name = string(&self.bytes, self.strings, word(&self.bytes, at)?)?;
            (value_name == name.as_bytes()).then(|| word(&self.bytes, at + 4))?
        })
    }

    fn member_of(&self, number: u32, path: &str) -> Result<Member, MemberError> {
        let mut number = number;
        let mut bits = 0u32;
        for name in path.split('.') {
            let missing = || MemberError::NoMember(path.to_owned());
            let outer = self.resolve(number).ok_or_else(missing)?;
            let found = self.find(outer, name.as_bytes(), 0).ok_or_else(missing)?;
            bits = bits.checked_add(found.bits).ok_or_else(missing)?;
            if found.is_bit_field || !bits.is_multiple_of(8) {
                return Err(MemberError::BitField(path.to_owned()));
            }
            number = found.number;
        }
        Ok(Member {
            offset: bits / 8,
            size: self.size(number, 0).unwrap_or(0),
        })
    }

    fn find(&self, outer: Type, name: &[u8], depth: u32) -> Option<Found> {
        if depth == DEPTH_MAX
            || name.is_empty()
            || !matches!(outer.kind, kind::STRUCT | kind::UNION)
        {
            return None;
        }
        for at in 0..outer.members as usize {
            let at = outer.tail + at * 12;
            let member_name = word(&self.bytes, at)?;
            let number = word(&self.bytes, at + 4)?;
            let position = word(&self.bytes, at + 8)?;
            let (bits, is_bit_field) = if outer.has_bit_fields {
                (position & 0x00ff_ffff, position >> 24 != 0)
            } else {
                (position, false)
            };
            let member_name = string(&self.bytes, self.strings, member_name)?;
            if member_name == name {
                return Some(Found {
                    bits,
                    number,
                    is_bit_field,
                });
            }
            if member_name.is_empty()
                && let Some(inner) = self.resolve(number)
                && let Some(found) = self.find(inner, name, depth + 1)
            {
                return Some(Found {
                    bits: bits.checked_add(found.bits)?,
                    ..found
                });
            }
        }
        None
    }

    /// Follows typedefs and qualifiers to what they stand for.
    fn resolve(&self, number: u32) -> Option<Type> {
        let mut number = number;
        for _ in 0..DEPTH_MAX {
            let found = self.type_by_number(number)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    number = found.size_or_type;
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn size(&self, number: u32, depth: u32) -> Option<u32> {
        if depth == DEPTH_MAX {
            return None;
        }
        let found = self.resolve(number)?;
        match found.kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                Some(found.size_or_type)
            }
            kind::PTR => u32::try_from(size_of::<usize>()).ok(),
            kind::ARRAY => {
                let element = word(&self.bytes, found.tail)?;
                let count = word(&self.bytes, found.tail + 8)?;
                self.size(element, depth + 1)?.checked_mul(count)
            }
            _ => None,
        }
    }

    fn type_by_number(&self, number: u32) -> Option<Type> {
        let index = (number as usize).checked_sub(1)?;
        type_at(&self.bytes, *self.types.get(index)? as usize)
    }
}

struct Found {
    bits: u32,
    number: u32,
    is_bit_field: bool,
}

fn type_at(bytes: &[u8], at: usize) -> Option<Type> {
    let info = word(bytes, at + 4)?;
    Some(Type {
        name: word(bytes, at)?,
        kind: (info >> 24) & 0x1f,
        members: info & 0xffff,
        has_bit_fields: info >> 31 != 0,
        size_or_type: word(bytes, at + 8)?,
        tail: at + 12,
    })
}

/// Bytes of the kind's own data; `None` for a kind that is not known.
fn tail_bytes(of: &Type) -> Option<usize> {
    let members = of.members as usize;
    Some(match of.kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => members * 12,
        kind::ENUM | kind::FUNC_PROTO => members * 8,
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn string(bytes: &[u8], strings: usize, offset: u32) -> Option<&[u8]> {
    let rest = bytes.get(strings.checked_add(offset as usize)?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type information made by hand: types as words, and their names.
    #[derive(Default)]
    struct Builder {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn add(&mut self, name: &str, kind: u32, size_or_type: u32, tail: &[u32]) {
            let name = self.name(name);
            self.types.extend([name, kind << 24, size_or_type]);
            self.types.extend(tail);
        }

        /// Members: name, type, position in bits, size in bits if it is a bit field.
        fn add_struct(&mut self, name: &str, kind: u32, members: &[(&str, u32, u32, u32)]) {
            let has_bit_fields = members.iter().any(|member| member.3 != 0);
            let name = self.name(name);
            let info = members.len() as u32 | kind << 24 | u32::from(has_bit_fields) << 31;
            self.types.extend([name, info, 64]);
            for (name, number, bits, width) in members {
                let name = self.name(name);
                self.types.extend([name, *number, bits | width << 24]);
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let types: Vec<u8> = self
                .types
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            for word in [
                24,
                0,
                types.len() as u32,
                types.len() as u32,
                self.strings.len() as u32,
            ] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    fn sample() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.add("int", kind::INT, 4, &[32]); // 1
        builder.add("", kind::PTR, 1, &[]); // 2
        builder.add("pid_t", kind::TYPEDEF, 1, &[]); // 3
        builder.add("", kind::CONST, 3, &[]); // 4
        builder.add("", kind::ARRAY, 0, &[1, 1, 5]); // 5
        builder.add_struct("inner", kind::STRUCT, &[("a", 1, 0, 0), ("b", 4, 32, 0)]); // 6
        builder.add_struct("", kind::UNION, &[("x", 2, 0, 0), ("y", 6, 0, 0)]); // 7
        builder.add_struct("", kind::STRUCT, &[("p", 2, 0, 0), ("", 7, 64, 0)]); // 8
        builder.add_struct(
            "outer",
            kind::STRUCT,
            &[("first", 1, 0, 0), ("", 8, 64, 0), ("words", 5, 256, 0)],
        ); // 9
        builder.add_struct(
            "flags",
            kind::STRUCT,
            &[("one", 1, 0, 1), ("whole", 1, 32, 0)],
        ); // 10
        builder.add("self", kind::TYPEDEF, 11, &[]); // 11
        builder.add_struct("loop", kind::STRUCT, &[("", 12, 0, 0), ("m", 11, 0, 0)]); // 12
        builder.add("call", kind::FUNC, 14, &[]); // 13
        builder.add("", kind::FUNC_PROTO, 1, &[]); // 14
        builder.add_struct("twice", kind::STRUCT, &[("a", 1, 0, 0)]); // 15
        builder.add_struct("twice", kind::STRUCT, &[("b", 1, 0, 0)]); // 16
        builder.bytes()
    }

    #[test]
    fn finds_members_by_path() {
        let btf = Btf::parse(sample()).expect("well formed");
        let check = |type_name: &str, path: &str, offset, size| {
            let expected = Ok(Member { offset, size });
            assert_eq!(btf.member(type_name, path), expected, "{type_name}.{path}");
        };
        check("outer", "first", 0, 4);
        check("outer", "p", 8, 8);
        check("outer", "x", 16, 8);
        check("outer", "y", 16, 64);
        check("outer", "y.b", 20, 4);
        check("outer", "words", 32, 20);
        check("inner", "b", 4, 4);
        check("flags", "whole", 4, 4);
    }

    #[test]
    fn numbers_structs_and_functions() {
        let btf = Btf::parse(sample()).expect("well formed");
        assert_eq!(btf.struct_number("outer"), Some(9));
        assert_eq!(btf.struct_number("call"), None);
        assert_eq!(btf.struct_number("twice"), None, "it is not known which");
        assert_eq!(btf.function("call"), Some(13));
        assert_eq!(btf.function("outer"), None);
    }

    #[test]
    fn names_what_it_does_not_find() {
        let btf = Btf::parse(sample()).expect("well formed");
        let check = |type_name: &str, path: &str, expected: &str| {
            let error = btf.member(type_name, path).expect_err("is not there");
            assert_eq!(error.to_string(), expected, "{type_name}.{path}");
        };
        check("nothing", "x", "no struct nothing");
        check("int", "x", "no struct int");
        check("outer", "z", "no member z");
        check("outer", "first.x", "no member first.x");
        check("outer", "", "no member ");
        check("flags", "one", "one is a bit field");
        // A struct that holds itself, which no compiler writes.
        check("loop", "nowhere", "no member nowhere");
        assert_eq!(btf.member("loop", "m"), Ok(Member { offset: 0, size: 0 }));
    }

    #[test]
    fn damaged_files_are_refused_or_harmless() {
        let check = |bytes: Vec<u8>, expected: BtfError| {
            assert_eq!(Btf::parse(bytes).err(), Some(expected));
        };
        check(Vec::new(), BtfError::Short(0));
        check(vec![0; 100], BtfError::Magic);
        let mut unknown = Builder::default();
        unknown.add("", 31, 0, &[]);
        check(unknown.bytes(), BtfError::Kind { id: 1, kind: 31 });

        let whole = sample();
        for length in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..length].to_vec()) {
                let _ = btf.member("outer", "y.b");
            }
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(btf) = Btf::parse(bytes) {
                    let _ = btf.member("outer", "y.b");
                    let _ = btf.member("loop", "nowhere");
                }
            }
        }
    }
}
