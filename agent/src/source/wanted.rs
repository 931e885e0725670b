//! What rules want of the kernel programs: written before they are attached, and changed while they run, all at once.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, MapData};
use aya::{Ebpf, Pod};
use saker_ebpf::config::{
    ENV_NAMES_MAX, FIRST_MAP, First, OPEN_BY_EXTENSION, OPEN_BY_RESOLVED, OPEN_PREFIX_BYTES,
    OPEN_PREFIXES_MAX, OpenPrefix, Turns, WANTED_MAP, Wanted,
};
use saker_ebpf::extension::{
    EXTENSION_OF_ALL, EXTENSION_OF_MODULE, EXTENSION_OF_PAIR, EXTENSIONS_MAP, extension_key,
};
use saker_ebpf::wire::Kind;

use super::devices::NODE_PREFIXES;
use super::errors::SensorError;
use super::loader::{map_error, take_map};
use super::probes::CONNECT_HOOK;
use super::sensor::SensorConfig;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Slot(Turns);

// SAFETY: `Turns` is repr(C), Copy, and holds integers only.
unsafe impl Pod for Slot {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct FirstSlot(First);

// SAFETY: `First` is repr(C), Copy, and holds integers only.
unsafe impl Pod for FirstSlot {}

/// The maps.
pub struct WantedMaps {
    first: Array<MapData, FirstSlot>,
    /// What is in `first`.
    decided: First,
    wanted: Array<MapData, Slot>,
    extensions: HashMap<MapData, [u64; 2], u8>,
    /// What is in `wanted`.
    turns: Box<Turns>,
    env_slots: u32,
    /// What is in the map of extensions.
    set: BTreeMap<[u64; 2], u8>,
    /// Devices are told by their paths, because no hook of their own is there for them.
    pub by_path: bool,
}

impl WantedMaps {
    /// Takes the maps out of the object. Nothing is wanted yet.
    pub fn new(ebpf: &mut Ebpf, env_slots: u32) -> Result<Self, SensorError> {
        Ok(Self {
            first: Array::try_from(take_map(ebpf, FIRST_MAP)?).map_err(map_error)?,
            decided: First::NONE,
            wanted: Array::try_from(take_map(ebpf, WANTED_MAP)?).map_err(map_error)?,
            extensions: HashMap::try_from(take_map(ebpf, EXTENSIONS_MAP)?).map_err(map_error)?,
            turns: Box::new(Turns::NONE),
            env_slots,
            set: BTreeMap::new(),
            by_path: false,
        })
    }

    /// Is there room for so many variables of the environment?
    pub fn fits(&self, environment: &[String]) -> bool {
        environment.len() <= self.env_slots as usize || self.env_slots as usize == ENV_NAMES_MAX
    }

    /// From now on this is wanted. Programs see either all of it or what was wanted before; none that started before still looks at
    /// what was wanted before that.
    pub fn set(&mut self, config: &SensorConfig) -> Result<(), SensorError> {
        let extensions = extensions(config)?;
        // More of them first, fewer last: nothing that is wanted both before and after is missing in between.
        for (key, value) in &extensions {
            let before = self.set.get(key).copied().unwrap_or(0);
            if before | value != before {
                let both = before | value;
                self.extensions.insert(key, both, 0).map_err(map_error)?;
                self.set.insert(*key, both);
            }
        }
        self.wait()?;
        let wanted = wanted(config, self.by_path, self.env_slots as usize);
        let first = first(&wanted, &extensions);
        self.decide(self.decided.or(&first))?;
        // The kernel copies all of it. What counts is overwritten by what it is.
        let next = self.turns.turn.wrapping_add(1);
        self.turns.wanted[(next & 1) as usize] = wanted;
        self.write()?;
        let before = std::mem::replace(&mut self.turns.turn, next);
        if let Err(error) = self.write() {
            self.turns.turn = before;
            return Err(error);
        }
        self.decide(first)?;
        for (key, before) in &self.set {
            match extensions.get(key) {
                Some(value) if value == before => {}
                Some(value) => self.extensions.insert(key, value, 0).map_err(map_error)?,
                None => self.extensions.remove(key).map_err(map_error)?,
            }
        }
        self.set = extensions;
        Ok(())
    }

    fn decide(&mut self, first: First) -> Result<(), SensorError> {
        self.first.set(0, FirstSlot(first), 0).map_err(map_error)?;
        self.decided = first;
        Ok(())
    }

    fn write(&mut self) -> Result<(), SensorError> {
        self.wanted.set(0, Slot(*self.turns), 0).map_err(map_error)
    }

    /// Until no program runs any more that may look at the place that is about to be written.
    fn wait(&self) -> Result<(), SensorError> {
        super::sensor::barrier().map_err(|error| SensorError::Kernel {
            attempt: "waiting for programs that run",
            reason: error.to_string(),
        })
    }
}

/// The map of extensions: under the last one stands which names are wanted, and of those that have two asked for, both stand beside it.
fn extensions(config: &SensorConfig) -> Result<BTreeMap<[u64; 2], u8>, SensorError> {
    let key_of = |extension: &[u8]| {
        extension_key(extension).ok_or_else(|| SensorError::Kernel {
            attempt: "setting the wanted extensions",
            reason: format!("{:?} is none", String::from_utf8_lossy(extension)),
        })
    };
    let mut entries = BTreeMap::new();
    let mut add = |extension: &[u8], bit: u8| -> Result<(), SensorError> {
        *entries.entry(key_of(extension)?).or_insert(0) |= bit;
        Ok(())
    };
    for extension in &config.opens.extensions {
        add(extension, EXTENSION_OF_ALL)?;
        let last = extension.iter().rposition(|byte| *byte == b'.');
        if let Some(last) = last.filter(|last| *last > 0) {
            add(&extension[last..], EXTENSION_OF_PAIR)?;
        }
    }
    if config.opens.modules {
        add(b".so", EXTENSION_OF_MODULE)?;
    }
    Ok(entries)
}

/// What most opens can be decided by.
fn first(wanted: &Wanted, extensions: &BTreeMap<[u64; 2], u8>) -> First {
    let mut first = First::NONE;
    let by_name_alone = wanted.open_filter == OPEN_BY_EXTENSION && wanted.prefixes_len == 0;
    first.by_name_alone = by_name_alone.into();
    extensions.keys().for_each(|key| first.ends.add(*key));
    first
}

/// What the kernel programs are told to report; `by_path` the devices too, which no hook of their own is there for.
fn wanted(config: &SensorConfig, by_path: bool, env_slots: usize) -> Wanted {
    let mut wanted = Wanted {
        kinds: served(config),
        ..Wanted::NONE
    };
    let by_path = by_path && config.kinds.contains(&Kind::DeviceOpen);
    let devices: &[&[u8]] = if by_path { &NODE_PREFIXES } else { &[] };
    let prefixes = config
        .opens
        .prefixes
        .iter()
        .map(Vec::as_slice)
        .filter(|_| config.kinds.contains(&Kind::Open))
        .chain(devices.iter().copied());
    let prefixes = fit_prefixes(prefixes);
    for (slot, prefix) in wanted.prefixes.iter_mut().zip(&prefixes) {
        *slot = OpenPrefix::new(prefix);
        wanted.prefixes_len += 1;
    }
    if config.opens.resolved {
        wanted.open_filter |= OPEN_BY_RESOLVED;
    }
    let by_extension = config.opens.modules || !config.opens.extensions.is_empty();
    if config.kinds.contains(&Kind::Open) && by_extension {
        wanted.open_filter |= OPEN_BY_EXTENSION;
    }
    let names = config.environment.iter().take(env_slots);
    for (slot, name) in wanted.env.iter_mut().zip(names) {
        *slot = OpenPrefix::new(format!("{name}=").as_bytes());
        wanted.env_len += 1;
    }
    wanted
}

/// The kinds that programs may report, as bits. A program can be attached for the sake of another kind than its own.
fn served(config: &SensorConfig) -> u32 {
    let by_other_hook = |kind: Kind| {
        kind == Kind::Connect
            && config
                .disabled_hooks
                .iter()
                .any(|hook| hook == CONNECT_HOOK)
    };
    config
        .kinds
        .iter()
        .filter(|kind| !by_other_hook(**kind))
        .fold(0, |bits, kind| bits | 1 << (*kind as u32))
}

/// Makes prefixes fit the kernel's table by shortening them together, until at most [`OPEN_PREFIXES_MAX`] differ and
/// none is covered by another. Shorter ones let more through; the rules still decide exactly.
fn fit_prefixes<'a>(prefixes: impl Iterator<Item = &'a [u8]>) -> BTreeSet<Vec<u8>> {
    let given: BTreeSet<Vec<u8>> = prefixes.map(<[u8]>::to_vec).collect();
    let mut length = OPEN_PREFIX_BYTES;
    loop {
        let cut: BTreeSet<Vec<u8>> = given
            .iter()
            .map(|prefix| prefix[..prefix.len().min(length)].to_vec())
            .collect();
        // Sorted, a prefix stands before everything it covers.
        let mut kept: BTreeSet<Vec<u8>> = BTreeSet::new();
        for prefix in cut {
            if !kept.iter().any(|shorter| prefix.starts_with(shorter)) {
                kept.insert(prefix);
            }
        }
        if kept.len() <= OPEN_PREFIXES_MAX {
            return kept;
        }
        length -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_made_to_fit() {
        let check = |given: &[&str], expected: &[&str]| {
            let fitted: Vec<String> = fit_prefixes(given.iter().map(|prefix| prefix.as_bytes()))
                .into_iter()
                .map(|prefix| String::from_utf8(prefix).expect("text"))
                .collect();
            assert_eq!(fitted, expected, "{given:?}");
        };
        check(&[], &[]);
        check(&["/dev/nvidia"], &["/dev/nvidia"]);
        check(&["/dev/nvidia", "/dev/nvidia0", "/dev"], &["/dev"]);
        check(&["", "/etc"], &[""]);
        check(
            &["/a/very/long/prefix/that/does/not/fit/whole"],
            &["/a/very/long/prefix/that/does/no"],
        );
        check(
            &["/1a", "/1b", "/2", "/3", "/4", "/5", "/6", "/7", "/8"],
            &["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"],
        );
        check(
            &["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"],
            &["/"],
        );
    }

    #[test]
    fn two_extensions_stand_beside_the_last_of_them() {
        let check = |given: &[&str], modules, expected: &[(&[u8], u8)]| {
            let mut config = SensorConfig::default();
            config.opens.extensions = given.iter().map(|text| text.as_bytes().to_vec()).collect();
            config.opens.modules = modules;
            let key = |text: &[u8]| extension_key(text).expect("an extension");
            let expected = expected.iter().map(|(text, value)| (key(text), *value));
            let entries = extensions(&config).expect("all are extensions");
            assert_eq!(entries, expected.collect(), "{given:?}");
        };
        let (all, pair, module) = (EXTENSION_OF_ALL, EXTENSION_OF_PAIR, EXTENSION_OF_MODULE);
        check(&[".pt"], false, &[(b".pt", all)]);
        check(&[".pkl.gz"], false, &[(b".gz", pair), (b".pkl.gz", all)]);
        check(
            &[".pkl.gz", ".gz"],
            false,
            &[(b".gz", pair | all), (b".pkl.gz", all)],
        );
        check(&[], true, &[(b".so", module)]);
        check(
            &[".so", ".pkl.so"],
            true,
            &[(b".so", all | pair | module), (b".pkl.so", all)],
        );
        let mut config = SensorConfig::default();
        config.opens.extensions = vec![b".a.b.c".to_vec()];
        let error = extensions(&config).expect_err("three are none").to_string();
        assert!(error.contains(".a.b.c"), "{error}");
    }

    #[test]
    fn a_variable_that_nobody_wants_is_like_no_other() {
        let config = SensorConfig {
            environment: vec!["LD_PRELOAD".into()],
            ..SensorConfig::default()
        };
        let wanted = wanted(&config, false, 4);
        let word = |text: &[u8]| {
            let mut words = [0u8; 32];
            words[..text.len()].copy_from_slice(text);
            [0, 8, 16, 24]
                .map(|at| u64::from_ne_bytes(words[at..at + 8].try_into().expect("eight bytes")))
        };
        let found = |text: &[u8]| wanted.env.iter().any(|name| name.matches(&word(text)));
        assert!(found(b"LD_PRELOAD=/x"));
        assert!(!found(b"LD_PRELOADED=/x"));
        assert!(!found(b""));
        assert!(!found(&[0xff; 32]));
    }
}
