//! Programs that take secrets in ways of their own: the table of their options, and the reading of a command's words with it.

use std::ops::Range;

use super::{names, scan};

/// How a program takes a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// `-pSECRET`; as a word of its own it is none.
    Attached(&'static [u8]),
    /// `-p SECRET`, `-pSECRET` and `-p=SECRET`.
    Value(&'static [u8]),
    /// `-k SECRET`.
    Next(&'static [u8]),
    /// `-u user:SECRET`, with this sign between.
    Pair(&'static [u8], u8),
    /// `-p SECRET` behind this word.
    After(&'static [u8], &'static [u8]),
    /// The last word behind these.
    Last(&'static [u8]),
    /// Words that begin so.
    Start(&'static [u8]),
}

/// Programs and how each takes secrets.
#[rustfmt::skip]
const TOOLS: &[(&[&[u8]], &[Takes])] = &[
    (&[b"mysql", b"mysqldump", b"mysqladmin", b"mysqlimport", b"mysqlcheck", b"mysqlshow", b"mysqlslap", b"mariadb",
        b"mariadb-dump", b"mariadb-admin", b"mariadb-import", b"mariadb-check"], &[Takes::Attached(b"-p")]),
    (&[b"sshpass"], &[Takes::Value(b"-p")]),
    (&[b"docker", b"podman", b"nerdctl", b"buildah", b"skopeo", b"oras", b"helm", b"crane", b"oc", b"az", b"cf"],
        &[Takes::After(b"login", b"-p")]),
    (&[b"curl"], &[Takes::Pair(b"-u", b':'), Takes::Pair(b"--user", b':'), Takes::Pair(b"-U", b':'),
        Takes::Pair(b"--proxy-user", b':'), Takes::Pair(b"-b", b'=')]),
    (&[b"lftp"], &[Takes::Pair(b"-u", b',')]),
    (&[b"smbclient", b"rpcclient"], &[Takes::Pair(b"-U", b'%')]),
    (&[b"redis-cli"], &[Takes::Value(b"-a")]),
    (&[b"ldapsearch", b"ldapadd", b"ldapmodify", b"ldapdelete", b"ldapwhoami", b"ldappasswd", b"ldapcompare"],
        &[Takes::Value(b"-w")]),
    (&[b"7z", b"7za", b"7zr", b"7zz", b"rar", b"unrar"], &[Takes::Attached(b"-p"), Takes::Attached(b"-hp")]),
    (&[b"zip", b"unzip", b"zipcloak"], &[Takes::Value(b"-P")]),
    (&[b"openssl"], &[Takes::Start(b"pass:"), Takes::Next(b"-k")]),
    (&[b"mosquitto_pub", b"mosquitto_sub", b"sqlcmd", b"ipmitool"], &[Takes::Value(b"-P")]),
    (&[b"mongo", b"mongosh", b"mongodump", b"mongorestore", b"cqlsh", b"rabbitmqadmin"], &[Takes::Value(b"-p")]),
    (&[b"xfreerdp", b"wfreerdp"], &[Takes::Start(b"/p:")]),
    (&[b"wandb", b"vault"], &[Takes::Last(b"login")]),
];

/// Programs that start the program that their arguments name.
const LAUNCHERS: &[&[u8]] = &[
    b"ash", b"bash", b"busybox", b"chroot", b"crictl", b"ctr", b"dash", b"doas", b"docker", b"env",
    b"find", b"ionice", b"ksh", b"kubectl", b"mpirun", b"nerdctl", b"nice", b"nohup", b"nsenter",
    b"numactl", b"podman", b"python", b"python3", b"runuser", b"setsid", b"sh", b"srun", b"ssh",
    b"stdbuf", b"strace", b"su", b"sudo", b"taskset", b"time", b"timeout", b"tini", b"unshare",
    b"watch", b"xargs", b"zsh",
];

/// Programs whose `-e` takes a script.
const INTERPRETERS: &[&[u8]] = &[
    b"bash",
    b"bun",
    b"deno",
    b"node",
    b"osascript",
    b"perl",
    b"php",
    b"ruby",
    b"sh",
    b"xterm",
];

/// Programs whose arguments are a script, whatever is before them.
const REMOTE: &[&[u8]] = &[b"ssh", b"watch", b"eval"];

/// Is the argument behind this one a script, to the programs of these names?
pub fn takes_script(programs: &[&[u8]], before: Option<&[u8]>) -> bool {
    let is_one_of = |names: &[&[u8]]| {
        programs
            .iter()
            .any(|program| names.contains(&base(program)))
    };
    if is_one_of(REMOTE) {
        return true;
    }
    match before {
        Some(b"--command") => true,
        Some([b'-', letters @ .., last]) if letters.iter().all(u8::is_ascii_alphabetic) => {
            *last == b'c'
                || matches!(last, b'e' | b'E') && is_one_of(INTERPRETERS)
                || *last == b'S' && is_one_of(&[b"env"])
        }
        _ => false,
    }
}

/// A file's name without its folders.
pub fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Finds secrets among the words of one command, which the programs of these names are given.
pub fn command(
    text: &[u8],
    programs: &[&[u8]],
    words: &[Range<usize>],
    found: &mut Vec<Range<usize>>,
) {
    let tool_of = |name: &[u8]| TOOLS.iter().find(|(names, _)| names.contains(&base(name)));
    let is_launcher = |name: &[u8]| LAUNCHERS.contains(&base(name));
    let mut tool = programs.iter().find_map(|name| tool_of(name));
    let mut launches = programs.iter().any(|name| is_launcher(name));
    let mut is_named = !programs.is_empty();
    let mut seen_at = 0;
    for (at, range) in words.iter().enumerate() {
        let word = &text[range.clone()];
        let next = words.get(at + 1);
        option(text, word, &words[at + 1..], found);
        if let Some((_, takes)) = tool {
            let before = &words[seen_at..at];
            for takes in *takes {
                found.extend(takes.secret(text, before, range, next));
            }
        }
        // `sudo timeout 5 mysql …`: whatever is started last is what the rest is for.
        if word.starts_with(b"-") || is_named && !launches {
            continue;
        }
        if let Some(started) = tool_of(word) {
            tool = Some(started);
            (launches, is_named) = (is_launcher(word), true);
            seen_at = at + 1;
        } else if !is_named && !word.contains(&b'=') {
            (launches, is_named) = (is_launcher(word), true);
        }
    }
}

/// An option that announces a secret, and the word behind it; also `password = x` and `set password x`.
fn option(text: &[u8], word: &[u8], behind: &[Range<usize>], found: &mut Vec<Range<usize>>) {
    let Some(next) = behind.first() else { return };
    let value = &text[next.clone()];
    let Some(class) = names::class(word) else {
        let is_set = matches!(word, b"set" | b"--set" | b"--add");
        if let (true, Some(class), Some(last)) = (is_set, names::class(value), behind.get(1))
            && !value.contains(&b'=')
            && class.holds(&text[last.clone()])
        {
            found.push(last.clone());
        }
        return;
    };
    if word.contains(&b'=') || word.contains(&b':') || word.contains(&b' ') {
        return;
    }
    if matches!(value, b"=" | b":" | b":=") {
        found.extend(behind.get(1).cloned());
    } else if word.starts_with(b"-")
        && word.len() > 2
        && !names::is_switch(word)
        && !is_option(value)
        && class.holds(value)
        && !scan::is_reference(value)
    {
        found.push(next.clone());
    }
}

/// Is this rather the next option than a value that begins with a dash?
fn is_option(word: &[u8]) -> bool {
    let name = |bytes: &[u8]| {
        bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes
                .iter()
                .take_while(|byte| **byte != b'=')
                .all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'_'))
    };
    match word {
        [b'-', b'-', rest @ ..] => rest.is_empty() || name(rest),
        [b'-', letter] => letter.is_ascii_alphabetic(),
        [b'-', rest @ ..] => rest.len() <= 4 && rest.iter().all(u8::is_ascii_lowercase),
        _ => false,
    }
}

impl Takes {
    /// The secret in a word, or in the next one.
    fn secret(
        self,
        text: &[u8],
        before: &[Range<usize>],
        range: &Range<usize>,
        next: Option<&Range<usize>>,
    ) -> Option<Range<usize>> {
        let word = &text[range.clone()];
        let value = |option: &'static [u8]| {
            if word == option {
                return next
                    .filter(|next| !is_option(&text[(*next).clone()]))
                    .cloned();
            }
            let rest = word.strip_prefix(option)?;
            // A long option is not the beginning of another.
            let sign = usize::from(rest[0] == b'=');
            (sign == 1 || !option.starts_with(b"--"))
                .then(|| range.end - rest.len() + sign..range.end)
        };
        // `-su`: several options in one word.
        let ends = |option: &[u8]| {
            let letters = word.strip_prefix(b"-").unwrap_or_default();
            letters.len() > 1
                && letters.iter().all(u8::is_ascii_alphabetic)
                && option.len() == 2
                && letters.ends_with(&option[1..])
        };
        let behind = |name: &[u8]| before.iter().any(|word| &text[word.clone()] == name);
        let secret = match self {
            Takes::Attached(option) => (word != option).then(|| value(option)).flatten(),
            Takes::Value(option) => value(option),
            Takes::Next(option) => (word == option).then(|| value(option)).flatten(),
            Takes::After(name, option) => behind(name).then(|| value(option)).flatten(),
            Takes::Pair(option, sign) => {
                let pair = value(option).or_else(|| next.filter(|_| ends(option)).cloned())?;
                let at = memchr::memchr(sign, &text[pair.clone()])?;
                Some(pair.start + at + 1..pair.end)
            }
            Takes::Last(name) => {
                (behind(name) && next.is_none() && !word.starts_with(b"-")).then(|| range.clone())
            }
            Takes::Start(start) => word
                .starts_with(start)
                .then(|| range.start + start.len()..range.end),
        };
        secret.filter(|secret| !secret.is_empty() && !scan::is_reference(&text[secret.clone()]))
    }
}
