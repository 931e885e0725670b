//! Rule sets of any size, with the mix of tests that Falco's rules have and constants that no two rules share.
//!
//! Every rule restricts `evt.type`, most carry a positive test or two that are theirs alone, and many carry the common
//! baggage: `container`, exclusion lists, parents that are allowed. Constants are made-up words, so that they share neither prefixes of digits nor
//! anything else that would be easy to tell apart.

use std::{collections::HashSet, fmt::Write};

/// A small deterministic generator of numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound.max(1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Words that were not used before.
pub struct Words {
    random: Random,
    used: HashSet<String>,
}

impl Words {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            used: HashSet::new(),
        }
    }

    pub fn word(&mut self) -> String {
        const ONSETS: [&str; 20] = [
            "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "tr", "pl",
            "gr", "sh", "ch",
        ];
        const VOWELS: [&str; 7] = ["a", "e", "i", "o", "u", "ai", "ou"];
        loop {
            let mut word = String::new();
            for _ in 0..2 + self.random.below(2) {
                word.push_str(self.random.pick(&ONSETS));
                word.push_str(self.random.pick(&VOWELS));
            }
            word.push_str(self.random.pick(&["", "n", "r", "s", "x", "d"]));
            if self.used.insert(word.clone()) {
                return word;
            }
        }
    }
}

const COMMON: &str = r#"
- macro: spawned_process
  condition: (evt.type in (execve, execveat))
- macro: open_read
  condition: (evt.type in (open, openat, openat2) and evt.is_open_read=true and fd.typechar='f' and fd.num>=0)
- macro: open_write
  condition: (evt.type in (open, openat, openat2) and evt.is_open_write=true and fd.typechar='f' and fd.num>=0)
- macro: outbound
  condition: (evt.type=connect and fd.typechar in (4, 6) and (evt.rawres>=0 or evt.res=EINPROGRESS))
- macro: container
  condition: (container.id != host)
- list: shells
  items: [ash, bash, csh, ksh, sh, tcsh, zsh, dash]
- list: package_managers
  items: [dpkg, apt, apt-get, yum, rpm, dnf, pip, pip3, conda, npm]
- macro: allowed_parents
  condition: (proc.pname in (package_managers, systemd, containerd-shim, runc) or proc.aname[2] in (package_managers))
"#;

/// A rules file with so many rules.
pub fn rules(count: usize) -> String {
    let mut words = Words::new(7);
    let mut random = Random::new(11);
    let mut text = String::from(COMMON);
    for index in 0..count {
        let condition = condition(&mut words, &mut random, index);
        let name = words.word();
        let _ = write!(
            text,
            "- rule: Rule {index} {name}\n  desc: Something about {name} happened\n  condition: >\n    {condition}\n  \
             output: Seen {name} | command=%proc.cmdline user=%user.name file=%fd.name container=%container.id\n  \
             priority: WARNING\n  tags: [bench, {name}]\n"
        );
    }
    text
}

fn condition(words: &mut Words, random: &mut Random, index: usize) -> String {
    let baggage = |random: &mut Random| -> &str {
        random.pick(&[
            "",
            " and container",
            " and not allowed_parents",
            " and container and not allowed_parents",
            " and not proc.pname in (shells)",
            " and user.uid != 0",
            " and not proc.name in (package_managers, shells)",
        ])
    };
    let mut w = || words.word();
    // 45 % programs, 35 % files, 20 % connections, as in Falco's rules.
    let test = match random.below(20) {
        0 | 1 => format!(
            "spawned_process and proc.name in ({}, {}, {})",
            w(),
            w(),
            w()
        ),
        2 => format!(
            "spawned_process and proc.name={} and proc.args contains \"--{}\"",
            w(),
            w()
        ),
        3 | 4 => format!(
            "spawned_process and proc.cmdline contains \"{} {}\"",
            w(),
            w()
        ),
        5 => format!(
            "spawned_process and (proc.cmdline contains \"-{}=\" or proc.cmdline contains \"/{}.\")",
            w(),
            w()
        ),
        6 => format!(
            "spawned_process and proc.exepath startswith /opt/{}/bin/",
            w()
        ),
        7 => format!(
            "spawned_process and (proc.exepath endswith /{}.sh or proc.cmdline startswith \"{} \")",
            w(),
            w()
        ),
        8 => format!(
            "spawned_process and proc.pname in ({}, {}) and not proc.cmdline startswith \"sh -c {}\"",
            w(),
            w(),
            w()
        ),
        9 => format!("open_read and fd.name startswith /srv/{}/", w()),
        10 => format!(
            "open_write and fd.name in (/etc/{}.conf, /etc/{}/{}.d)",
            w(),
            w(),
            w()
        ),
        11 => format!(
            "open_write and fd.name pmatch (/var/lib/{}, /opt/{}/data)",
            w(),
            w()
        ),
        12 => format!("open_read and fd.name endswith .{}", w()),
        13 => format!("open_read and fd.name glob '/home/*/.{}/*'", w()),
        14 => format!(
            "open_write and (fd.directory in (/usr/{}, /usr/lib/{}) or fd.filename = {}.so)",
            w(),
            w(),
            w()
        ),
        15 => format!(
            "open_read and fd.name contains /.{}/ and proc.name != {}",
            w(),
            w()
        ),
        16 => format!(
            "outbound and fd.snet in (\"10.{}.{}.0/24\")",
            index / 250 % 250,
            index % 250
        ),
        17 => format!("outbound and fd.sport = {}", 1_024 + index % 60_000),
        18 => format!(
            "outbound and fd.sip = 172.{}.{}.{}",
            16 + index / 62_500,
            index / 250 % 250,
            index % 250
        ),
        _ => format!(
            "outbound and proc.name in ({}, {}) and not fd.sport in (80, 443)",
            w(),
            w()
        ),
    };
    format!("{test}{}", baggage(random))
}
