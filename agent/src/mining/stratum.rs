//! Stratum by the shape of what a client says first: JSON-RPC with methods that nothing but miners call.
//!
//! The bytes are whatever somebody sent, and may be cut anywhere; nothing is parsed that need not be.

/// Methods of the dialects, as their clients call them first. `login` is a common word, and checked further.
const METHODS: &[&str] = &[
    "mining.subscribe",
    "mining.authorize",
    "mining.hello",
    "mining.configure",
    "mining.extranonce.subscribe",
    "eth_submitLogin",
    "eth_submitHashrate",
    "eth_getWork",
    "login",
];

/// How far into the bytes a method is looked for, and how many keys of that name are.
const KEYS_MAX: usize = 8;

/// The method of Stratum that a connection's beginning calls; `None` where it is something else.
pub fn method(bytes: &[u8]) -> Option<&'static str> {
    let called = values(bytes, b"method").take(KEYS_MAX);
    let known = called.filter_map(|called| {
        let is_it = |method: &&&str| method.as_bytes() == called;
        METHODS.iter().find(is_it).copied()
    });
    // Ethereum's nodes know eth_getWork as well, and call it by HTTP, which begins otherwise. XMRig's dialect logs in with a wallet, a
    // password and the client's name.
    let mut known = known.filter(|method| {
        *method != "login" || has(bytes, b"login") && has(bytes, b"pass") && has(bytes, b"agent")
    });
    known.next()
}

fn has(bytes: &[u8], key: &[u8]) -> bool {
    values(bytes, key).next().is_some()
}

/// Strings that stand behind a key of this name, at whatever depth.
fn values<'a>(bytes: &'a [u8], key: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    memchr::memmem::find_iter(bytes, key).filter_map(move |at| {
        let before = bytes[..at].last();
        let rest = bytes.get(at + key.len()..)?.strip_prefix(b"\"")?;
        let rest = rest.trim_ascii_start().strip_prefix(b":")?;
        let rest = rest.trim_ascii_start().strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', rest)?;
        (before == Some(&b'"')).then(|| &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miners_greet_their_pools_in_their_own_words() {
        let check = |bytes: &str, expected: Option<&str>| {
            assert_eq!(method(bytes.as_bytes()), expected, "{bytes}");
        };
        check(
            r#"{"id": 1, "method": "mining.subscribe", "params": ["kawpowminer/1.2.4", "EthereumStratum/1.0.0"]}"#,
            Some("mining.subscribe"),
        );
        check(
            r#"{"params":["R.rig","x"],"id":2,"method":"mining.authorize"}"#,
            Some("mining.authorize"),
        );
        check(
            r#"{"worker":"eth1.0","jsonrpc":"2.0","params":["0x0"],"id":1,"method":"eth_submitLogin"}"#,
            Some("eth_submitLogin"),
        );
        check(
            r#"{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4","pass":"x","agent":"XMRig/6.21","algo":["rx/0","#,
            Some("login"),
        );
        // Cut within the method's name it is no name.
        check(r#"{"id":1,"method":"mining.subsc"#, None);
        check(
            r#"{"jsonrpc":"2.0","method":"login","params":{"login":"ann","password":"x"}}"#,
            None,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"initialize","params":{}}"#,
            None,
        );
        check(r#"{"text":"mining.subscribe is a method"}"#, None);
        check(r#"{"text":"method":"#, None);
        check(r#"{"method":7}"#, None);
        check("{", None);
        check("", None);
    }
}
