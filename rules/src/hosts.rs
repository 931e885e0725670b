//! The hosts that a command line names, so that rules can compare hosts and not text: an approved name in a path, a query or the
//! name of a user approves nothing.

/// The hosts of URLs (`https://user@host:1/path`, `git+ssh://host`; of `s3://bucket/key` the bucket) and of remote places as scp, rsync
/// and git write them (`user@host:path`, `host:/path`). As written, in order, with repetitions; addresses in brackets without them.
///
/// What stands before the host may hold marks that end a URL in a program's text, such as quotes and semicolons, and clients do not agree on
/// backslashes: where that makes two hosts of one, both are there.
pub fn hosts(args: &[u8]) -> impl Iterator<Item = &[u8]> {
    args.split(u8::is_ascii_whitespace).flat_map(|word| {
        let mut urls = urls(word).peekable();
        let remote = match urls.peek() {
            Some(_) => None,
            None => remote(word),
        };
        urls.chain(remote)
    })
}

/// The hosts of a word's URLs.
fn urls(word: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    let mut other = None;
    std::iter::from_fn(move || {
        if let Some(host) = other.take() {
            return Some(host);
        }
        loop {
            let colon = from + word.get(from..)?.iter().position(|byte| *byte == b':')?;
            let slashes = word[colon + 1..]
                .iter()
                .take_while(|byte| **byte == b'/')
                .count();
            let start = colon + 1 + slashes;
            from = start;
            // curl and its kin take a URL of the web with any number of slashes.
            let scheme = scheme(&word[..colon]);
            let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
            let slashes_min = if is("http") || is("https") || is("ftp") {
                1
            } else {
                2
            };
            if slashes < slashes_min || scheme.is_empty() || is("file") {
                continue;
            }
            let authority = up_to(&word[start..], b"/?#");
            let in_text = host_of(up_to(authority, b"\"'`<>|;,)\\"));
            let whole = host_of(authority).filter(|host| is_host(host) && Some(*host) != in_text);
            match (whole, in_text) {
                (Some(whole), in_text) => {
                    other = in_text;
                    return Some(whole);
                }
                (None, Some(in_text)) => return Some(in_text),
                (None, None) => {}
            }
        }
    })
}

/// What stands before the first of some marks.
fn up_to<'a>(text: &'a [u8], marks: &[u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| marks.contains(byte));
    &text[..end.unwrap_or(text.len())]
}

/// What is behind a URL's user, without the port.
fn host_of(authority: &[u8]) -> Option<&[u8]> {
    let place = authority.rsplit(|byte| *byte == b'@').next()?;
    Some(without_port(place)).filter(|host| !host.is_empty())
}

/// Could it be a name or an address?
fn is_host(host: &[u8]) -> bool {
    host.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-:%".contains(byte) || !byte.is_ascii())
}

/// The scheme that ends a text. Of `git+https` it is what is behind the plus sign.
fn scheme(text: &[u8]) -> &[u8] {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric();
    let start = text.iter().rposition(|byte| !is_part(byte));
    &text[start.map_or(0, |start| start + 1)..]
}

fn without_port(authority: &[u8]) -> &[u8] {
    match authority {
        [b'[', inner @ ..] => inner.split(|byte| *byte == b']').next().unwrap_or(inner),
        _ => authority
            .split(|byte| *byte == b':')
            .next()
            .unwrap_or(authority),
    }
}

/// The host of `user@host:path`, `host:/path`, `host:~/path`, `host:./path` and rsync's `host::module`.
fn remote(word: &[u8]) -> Option<&[u8]> {
    let colon = word.iter().position(|byte| *byte == b':')?;
    let (place, path) = (&word[..colon], &word[colon + 1..]);
    let (is_users, host) = match place.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (at > 0, &place[at + 1..]),
        None => (false, place),
    };
    let is_host = host.first().is_some_and(u8::is_ascii_alphanumeric)
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    let leads_elsewhere = is_users || matches!(path.first(), Some(b'/' | b'~' | b'.' | b':'));
    (is_host && leads_elsewhere && !path.starts_with(b"//")).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: &str, expected: &[&str]) {
        let found: Vec<_> = hosts(args.as_bytes())
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(found, expected, "{args}");
    }

    #[test]
    fn hosts_of_urls() {
        check("install torch -i https://pypi.org/simple", &["pypi.org"]);
        check("--extra-index-url=http://a.example:8080/x", &["a.example"]);
        check(
            "git+https://git.example/a git+ssh://git@b/c",
            &["git.example", "b"],
        );
        check(
            "https://[fd00::1]:443/x http://10.0.0.1",
            &["fd00::1", "10.0.0.1"],
        );
        check("s3 cp s3://bucket/key gs://other", &["bucket", "other"]);
        check("pkg@https://a.example/x.whl", &["a.example"]);
        check("-c open('https://a.example').read()", &["a.example"]);
    }

    #[test]
    fn nothing_but_the_host_is_a_host() {
        let approved = "registry.internal";
        check("https://evil.example/?registry.internal", &["evil.example"]);
        check("https://registry.internal@evil.example/", &["evil.example"]);
        check(
            "https://registry.internal:x@evil.example/",
            &["evil.example"],
        );
        check(
            "https://evil.example/?u=https://registry.internal/",
            &["evil.example", approved],
        );
        check(
            "https://registry.internal.evil.example/",
            &["registry.internal.evil.example"],
        );
        check(
            r"https://registry.internal\@evil.example/",
            &["evil.example", approved],
        );
        check(
            r"https://evil.example\@pypi.org/x",
            &["pypi.org", "evil.example"],
        );
        for mark in [";", ",", ")", "'", "|", "<", "`"] {
            check(
                &format!("https://registry.internal{mark}@evil.example/m.pkl"),
                &["evil.example", approved],
            );
        }
        check("-c \"get('https://b/x')\" 'https://a';y", &["b", "a"]);
        check("https:/evil.example/ http:///b", &["evil.example", "b"]);
        check("HTTPS://evil.example:/ ", &["evil.example"]);
        check("x:https://evil.example ::https://b", &["evil.example", "b"]);
    }

    #[test]
    fn remote_places() {
        check("me@far:x far:/x far:~/x far:./x far::m", &["far"; 5]);
        check("git@hf.co:a/b", &["hf.co"]);
        check("/data:/data -p 80:80 image:tag 10.0.0.1:80 a:", &[]);
        check("TCP:10.0.0.5:80 file:///x C:x :/x @a:/x", &["a"]);
        check("", &[]);
        check("://", &[]);
    }
}
