//! What the kernel may drop: conditions that every event meets which a rule can match.
//!
//! For each kind of event the compiler walks what is left of the rules' conditions and keeps what the kernel can check itself: whether the kind is wanted at all;
//! for opens, the path and whether it is opened for reading or writing; for connects, the address family. A condition is weakened until it has this
//! form, never strengthened: an `and` keeps its most telling part, an `or` keeps all of its parts or none, a negation keeps nothing. So an
//! event that the filter drops is matched by no rule; a property test holds the two against each other. The one exception are opens
//! of devices that are told of by another event, which the same rule matches ([`devices`]).
//!
//! Paths are compared as `fd.name` writes them. The kernel must let pass every path that is not absolute or has
//! empty components, for those may be written differently by the time that rules see them. Rules that cannot match on a
//! live agent (an event kind that is not traced, a field that cannot be supplied) are left out.

pub(crate) mod devices;

use std::collections::{BTreeMap, BTreeSet};

pub use devices::DEVICE_PATHS;

use crate::{
    bundle::codec::{Reader, Writer},
    compile::{
        atoms::{self, Gate, Method, Needle},
        graph::{Graph, Node, NodeId},
    },
    expr::{FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
};

/// The filter of a set of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// Kinds that rules name and can match.
    pub kinds: BTreeMap<String, KindFilter>,
    /// Rules that may match kinds that are not in `kinds`, for want of a test on `evt.type`. Where there are any, every kind is wanted.
    pub any_kind: Vec<String>,
}

/// What an event of a wanted kind must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each kind of event"
)]
pub enum KindFilter {
    /// Nothing more.
    Wanted,
    /// For kinds that open files.
    Open(OpenFilter),
    /// For connections.
    Connect(Families),
}

/// Opens pass where one of the three does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenFilter {
    /// Of opens in any mode.
    pub any: PathFilter,
    /// Of opens for reading (`evt.is_open_read`).
    pub read: PathFilter,
    /// Of opens for writing (`evt.is_open_write`).
    pub write: PathFilter,
}

/// Paths that pass: any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathFilter {
    /// Rules for which every path must pass. Where there are any, the rest tells what passing would be without them.
    pub everything: BTreeSet<String>,
    /// Whole paths.
    pub exact: BTreeSet<Vec<u8>>,
    /// What paths start with.
    pub prefixes: BTreeSet<Vec<u8>>,
    /// What paths end with.
    pub suffixes: BTreeSet<Vec<u8>>,
}

/// Address families that pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the definition")]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
    pub other: bool,
}

impl KernelFilter {
    /// Whether events of the kind are wanted.
    pub fn wants(&self, kind: &str) -> bool {
        !self.any_kind.is_empty() || self.kinds.contains_key(kind)
    }

    /// Whether an open must be seen. The reference for what runs in the kernel.
    pub fn passes_open(&self, kind: &str, path: &[u8], is_read: bool, is_write: bool) -> bool {
        match self.kinds.get(kind) {
            None => !self.any_kind.is_empty(),
            Some(KindFilter::Open(filter)) => {
                !is_plain(path)
                    || filter.any.passes(path)
                    || is_read && filter.read.passes(path)
                    || is_write && filter.write.passes(path)
            }
            Some(KindFilter::Wanted | KindFilter::Connect(_)) => true,
        }
    }

    /// Whether a connection of the family must be seen.
    pub fn passes_connect(&self, kind: &str, family: Families) -> bool {
        match self.kinds.get(kind) {
            None => !self.any_kind.is_empty(),
            Some(KindFilter::Connect(wanted)) => {
                wanted.ipv4 && family.ipv4
                    || wanted.ipv6 && family.ipv6
                    || wanted.other && family.other
            }
            Some(KindFilter::Wanted | KindFilter::Open(_)) => true,
        }
    }

    /// Rules that keep the kernel from dropping what it otherwise could, and of which kinds.
    pub fn blockers(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut blockers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for rule in &self.any_kind {
            blockers
                .entry(rule.clone())
                .or_default()
                .insert("every kind".into());
        }
        for (kind, filter) in &self.kinds {
            if let KindFilter::Open(filter) = filter {
                for rule in [&filter.any, &filter.read, &filter.write]
                    .into_iter()
                    .flat_map(|paths| &paths.everything)
                {
                    blockers
                        .entry(rule.clone())
                        .or_default()
                        .insert(kind.clone());
                }
            }
        }
        blockers
    }
}

impl PathFilter {
    /// Whether nothing passes.
    pub fn is_empty(&self) -> bool {
        self.everything.is_empty()
            && self.exact.is_empty()
            && self.prefixes.is_empty()
            && self.suffixes.is_empty()
    }

    /// Whether a path passes.
    pub fn passes(&self, path: &[u8]) -> bool {
        !self.everything.is_empty()
            || self.exact.contains(path)
            || self.prefixes.iter().any(|prefix| path.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| path.ends_with(suffix))
    }

    fn merge(&mut self, other: Self) {
        self.everything.extend(other.everything);
        self.exact.extend(other.exact);
        self.prefixes.extend(other.prefixes);
        self.suffixes.extend(other.suffixes);
    }
}

/// Whether a path is absolute and has no empty components.
fn is_plain(path: &[u8]) -> bool {
    path.starts_with(b"/") && !path.windows(2).any(|pair| pair == b"//")
}

/// Kinds that open a file by path.
pub(crate) const OPENS: [&str; 4] = ["open", "openat", "openat2", "creat"];
/// Kinds that name a remote address.
pub(crate) const CONNECTS: [&str; 1] = ["connect"];

/// The filter of the conditions left over for one kind; `rules` are the names and conditions of those that can match.
pub(crate) fn derive<'r>(
    graph: &Graph,
    kind: &str,
    rules: impl Iterator<Item = (&'r str, NodeId)>,
) -> Option<KindFilter> {
    let mut rules = rules.peekable();
    rules.peek()?;
    if OPENS.contains(&kind) {
        let mut filter = OpenFilter::default();
        for (name, node) in rules {
            let opens = opens(graph, node, true);
            for (into, paths) in [
                (&mut filter.any, opens.any),
                (&mut filter.read, opens.read),
                (&mut filter.write, opens.write),
            ] {
                match paths {
                    None => {}
                    Some(Paths::Any) => {
                        into.everything.insert(name.to_owned());
                    }
                    Some(Paths::Of(paths)) => into.merge(paths),
                }
            }
        }
        return Some(KindFilter::Open(filter));
    }
    if CONNECTS.contains(&kind) {
        let families = rules.fold(NO_FAMILY, |families, (_, node)| {
            families | family(graph, node, true)
        });
        return Some(KindFilter::Connect(Families {
            ipv4: families & IPV4 != 0,
            ipv6: families & IPV6 != 0,
            other: families & OTHER != 0,
        }));
    }
    Some(KindFilter::Wanted)
}

/// Paths that a condition can hold for.
#[derive(Clone, Debug)]
enum Paths {
    Any,
    Of(PathFilter),
}

/// Opens that a condition can hold for: `None` where it holds for none of the mode alone.
#[derive(Clone, Debug, Default)]
struct Opens {
    any: Option<Paths>,
    read: Option<Paths>,
    write: Option<Paths>,
}

impl Opens {
    fn all() -> Self {
        Self {
            any: Some(Paths::Any),
            ..Self::default()
        }
    }

    fn paths(paths: PathFilter) -> Self {
        Self {
            any: Some(Paths::Of(paths)),
            ..Self::default()
        }
    }

    fn union(mut self, other: Self) -> Self {
        for (mine, theirs) in [
            (&mut self.any, other.any),
            (&mut self.read, other.read),
            (&mut self.write, other.write),
        ] {
            *mine = match (mine.take(), theirs) {
                (None, paths) | (paths, None) => paths,
                (Some(Paths::Of(mut mine)), Some(Paths::Of(theirs))) => {
                    mine.merge(theirs);
                    Some(Paths::Of(mine))
                }
                _ => Some(Paths::Any),
            };
        }
        self
    }

    /// Both hold: of two modes the narrower, of two sets of paths the more telling.
    fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        let modes = |opens: &Self| [opens.any.clone(), opens.read.clone(), opens.write.clone()];
        for (mine_mode, mine) in modes(self).into_iter().enumerate() {
            for (theirs_mode, theirs) in modes(other).into_iter().enumerate() {
                let (Some(mine), Some(theirs)) = (&mine, theirs) else {
                    continue;
                };
                let mut one = Self::default();
                let paths = if breadth(mine) <= breadth(&theirs) {
                    mine.clone()
                } else {
                    theirs
                };
                // Read and write together are at least a write.
                *match mine_mode.max(theirs_mode) {
                    0 => &mut one.any,
                    1 => &mut one.read,
                    _ => &mut one.write,
                } = Some(paths);
                both = both.union(one);
            }
        }
        both
    }
}

/// How much of a file system passes, in rough order: short prefixes and suffixes weigh most.
fn breadth(paths: &Paths) -> f64 {
    match paths {
        Paths::Any => f64::INFINITY,
        Paths::Of(paths) => {
            let affix = |text: &Vec<u8>| 1e6 * 0.7_f64.powi(text.len().min(200) as i32);
            paths.exact.len() as f64
                + paths
                    .prefixes
                    .iter()
                    .chain(&paths.suffixes)
                    .map(affix)
                    .sum::<f64>()
        }
    }
}

fn opens(graph: &Graph, node: NodeId, holds: bool) -> Opens {
    match (graph.node(node), holds) {
        (Node::False, true) | (Node::True, false) => Opens::default(),
        (Node::True, true) | (Node::False, false) | (Node::Atom(_), false) => Opens::all(),
        (Node::Atom(atom), true) => open_test(graph.atom(*atom)),
        (Node::Not(part), _) => opens(graph, *part, !holds),
        (Node::And(parts), true) | (Node::Or(parts), false) => {
            parts.iter().fold(Opens::all(), |both, &part| {
                both.intersection(&opens(graph, part, holds))
            })
        }
        (Node::Or(parts), true) | (Node::And(parts), false) => {
            parts.iter().fold(Opens::default(), |either, &part| {
                either.union(opens(graph, part, holds))
            })
        }
    }
}

fn open_test(test: &Test) -> Opens {
    let Operand::Field(FieldRef {
        field,
        arg: FieldArg::None,
    }) = &test.lhs
    else {
        return Opens::all();
    };
    let is_true = test.modifier.is_none()
        && matches!(&test.rhs, Rhs::Values(values) if values[..] == [Literal::Bool(true)]);
    match field {
        Field::EvtIsOpenRead if is_true && matches!(test.op, Op::Eq | Op::In) => Opens {
            read: Some(Paths::Any),
            ..Opens::default()
        },
        Field::EvtIsOpenWrite if is_true && matches!(test.op, Op::Eq | Op::In) => Opens {
            write: Some(Paths::Any),
            ..Opens::default()
        },
        Field::FdName | Field::FdDirectory | Field::FdFilename => {
            let mut gates = atoms::gates(test);
            // Where a pattern has a start and an end, the start: every kernel can check it at little cost.
            gates.sort_by_key(|gate| gate.method == Method::EndsWith);
            let paths = gates.into_iter().find_map(|gate| path_filter(*field, gate));
            paths.map_or_else(Opens::all, Opens::paths)
        }
        _ => Opens::all(),
    }
}

/// A gate on a path, where the kernel can check it.
fn path_filter(field: Field, gate: Gate) -> Option<PathFilter> {
    let mut paths = PathFilter::default();
    for needle in gate.needles {
        let Needle::Bytes(text) = needle else {
            return None;
        };
        let text = text.into_vec();
        let into = match (field, gate.method) {
            (Field::FdName, Method::EqualBytes) => &mut paths.exact,
            (Field::FdName | Field::FdDirectory, Method::StartsWith | Method::PathPrefix) => {
                &mut paths.prefixes
            }
            // A directory is the path up to its last slash, that one perhaps included.
            (Field::FdDirectory, Method::EqualBytes) if text.starts_with(b"/") => {
                &mut paths.prefixes
            }
            (Field::FdName | Field::FdFilename, Method::EndsWith) => &mut paths.suffixes,
            (Field::FdFilename, Method::EqualBytes) if !text.is_empty() => &mut paths.suffixes,
            _ => return None,
        };
        into.insert(text);
    }
    Some(paths)
}

const NO_FAMILY: u8 = 0;
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const OTHER: u8 = 4;
const ANY_FAMILY: u8 = IPV4 | IPV6 | OTHER;

/// Families that a condition can hold for.
fn family(graph: &Graph, node: NodeId, holds: bool) -> u8 {
    match (graph.node(node), holds) {
        (Node::False, true) | (Node::True, false) => NO_FAMILY,
        (Node::True, true) | (Node::False, false) | (Node::Atom(_), false) => ANY_FAMILY,
        (Node::Atom(atom), true) => family_test(graph.atom(*atom)),
        (Node::Not(part), _) => family(graph, *part, !holds),
        (Node::And(parts), true) | (Node::Or(parts), false) => {
            parts.iter().fold(ANY_FAMILY, |families, &part| {
                families & family(graph, part, holds)
            })
        }
        (Node::Or(parts), true) | (Node::And(parts), false) => {
            parts.iter().fold(NO_FAMILY, |families, &part| {
                families | family(graph, part, holds)
            })
        }
    }
}

fn family_test(test: &Test) -> u8 {
    let Operand::Field(FieldRef {
        field,
        arg: FieldArg::None,
    }) = &test.lhs
    else {
        return ANY_FAMILY;
    };
    let named = |families: fn(&[u8]) -> u8| match &test.rhs {
        Rhs::Values(values) if test.modifier.is_none() && matches!(test.op, Op::Eq | Op::In) => {
            values.iter().fold(NO_FAMILY, |all, value| match value {
                Literal::Bytes(name) => all | families(name),
                _ => ANY_FAMILY,
            })
        }
        _ => ANY_FAMILY,
    };
    match field {
        Field::FdTypechar => named(|name| match name {
            b"4" => IPV4,
            b"6" => IPV6,
            _ => OTHER,
        }),
        Field::FdType => named(|name| match name {
            b"ipv4" => IPV4,
            b"ipv6" => IPV6,
            _ => OTHER,
        }),
        Field::FdSockfamily => named(|name| match name {
            b"ip" => IPV4 | IPV6,
            _ => OTHER,
        }),
        // Unix sockets have no addresses, so a test on one, `!=` included, needs an IP connection. Which family is not for a
        // literal to say: mapped addresses may be told in either form.
        Field::FdSip
        | Field::FdCip
        | Field::FdRip
        | Field::FdLip
        | Field::FdIp
        | Field::FdSport
        | Field::FdCport
        | Field::FdRport
        | Field::FdLport
        | Field::FdPort
        | Field::FdSnet
        | Field::FdCnet
        | Field::FdRnet
        | Field::FdLnet
        | Field::FdNet => IPV4 | IPV6,
        _ => ANY_FAMILY,
    }
}

/// The filter as bytes of a bundle.
pub(crate) fn encode(filter: &KernelFilter) -> Vec<u8> {
    let mut out = Writer::default();
    out.count(filter.any_kind.len());
    filter
        .any_kind
        .iter()
        .for_each(|rule| out.bytes(rule.as_bytes()));
    out.count(filter.kinds.len());
    for (kind, filter) in &filter.kinds {
        out.bytes(kind.as_bytes());
        match filter {
            KindFilter::Wanted => out.byte(0),
            KindFilter::Open(filter) => {
                out.byte(1);
                for paths in [&filter.any, &filter.read, &filter.write] {
                    out.count(paths.everything.len());
                    paths
                        .everything
                        .iter()
                        .for_each(|rule| out.bytes(rule.as_bytes()));
                    for texts in [&paths.exact, &paths.prefixes, &paths.suffixes] {
                        out.count(texts.len());
                        texts.iter().for_each(|text| out.bytes(text));
                    }
                }
            }
            KindFilter::Connect(families) => {
                let bits = [
                    (families.ipv4, IPV4),
                    (families.ipv6, IPV6),
                    (families.other, OTHER),
                ];
                out.byte(2);
                out.byte(
                    bits.iter()
                        .map(|&(passes, bit)| if passes { bit } else { 0 })
                        .sum(),
                );
            }
        }
    }
    out.finish()
}

/// The filter from bytes of a bundle; `None` where they are no filter.
pub(crate) fn decode(bytes: &[u8]) -> Option<KernelFilter> {
    let mut from = Reader::new(bytes);
    let mut filter = KernelFilter::default();
    for _ in 0..from.count()? {
        filter.any_kind.push(from.text()?);
    }
    for _ in 0..from.count()? {
        let kind = from.text()?;
        let kind_filter = match from.byte()? {
            0 => KindFilter::Wanted,
            1 => {
                let mut open = OpenFilter::default();
                for paths in [&mut open.any, &mut open.read, &mut open.write] {
                    for _ in 0..from.count()? {
                        paths.everything.insert(from.text()?);
                    }
                    for texts in [&mut paths.exact, &mut paths.prefixes, &mut paths.suffixes] {
                        for _ in 0..from.count()? {
                            texts.insert(from.bytes()?.to_vec());
                        }
                    }
                }
                KindFilter::Open(open)
            }
            2 => {
                let bits = from.byte()?;
                let passes = |bit| bits & bit != 0;
                KindFilter::Connect(Families {
                    ipv4: passes(IPV4),
                    ipv6: passes(IPV6),
                    other: passes(OTHER),
                })
            }
            _ => return None,
        };
        filter.kinds.insert(kind, kind_filter);
    }
    from.is_empty().then_some(filter)
}

#[cfg(test)]
mod tests;
