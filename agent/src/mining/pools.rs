//! Names of mining pools. A name says something only together with another family: anybody may look one up.

/// Domains of pools; every name below one is one of them. Pools publish these in their instructions for miners.
const POOLS: &[&str] = &[
    "2miners.com",
    "antpool.com",
    "baikalmine.com",
    "binance-pool.com",
    "btc.com",
    "c3pool.com",
    "cruxpool.com",
    "dpool.top",
    "ekapool.com",
    "ethermine.org",
    "ethpool.org",
    "ezil.me",
    "f2pool.com",
    "flexpool.io",
    "flypool.org",
    "gulf.moneroocean.stream",
    "hashvault.pro",
    "herominers.com",
    "hiveon.com",
    "hiveon.net",
    "humpool.com",
    "k1pool.com",
    "kaspa-pool.org",
    "kryptex.network",
    "luckypool.io",
    "luxor.tech",
    "minerpool.org",
    "minexmr.com",
    "mining-dutch.nl",
    "miningocean.org",
    "miningpoolhub.com",
    "moneroocean.stream",
    "nanopool.org",
    "nicehash.com",
    "poolbinance.com",
    "poolin.com",
    "poolmine.xyz",
    "prohashing.com",
    "rplant.xyz",
    "slushpool.com",
    "solopool.org",
    "sparkpool.com",
    "spiderpool.com",
    "suprnova.cc",
    "supportxmr.com",
    "unmineable.com",
    "unminable.com",
    "viabtc.com",
    "viabtc.io",
    "woolypooly.com",
    "xmrpool.eu",
    "xmrpool.net",
    "zergpool.com",
    "zpool.ca",
    "acc-pool.pw",
    "wooly-pooly.com",
];

/// Labels that pools' hosts of other domains are called by.
const LABELS: &[&str] = &[
    "stratum",
    "xmrpool",
    "ethpool",
    "kaspool",
    "miningpool",
    "mining-pool",
];

/// The pool's part of a name in lower case without a last dot; `None` where it is none.
pub fn pool(name: &str) -> Option<&str> {
    let is_below = |domain: &&&str| {
        name.strip_suffix(**domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if POOLS.iter().any(|domain| is_below(&domain)) {
        return Some(name);
    }
    let mut labels = name.split('.');
    labels.any(|label| LABELS.contains(&label)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_known_by_their_domains() {
        for name in [
            "ethermine.org",
            "eu1.ethermine.org",
            "rvn.2miners.com",
            "stratum.example",
        ] {
            assert_eq!(pool(name), Some(name));
        }
        for name in [
            "notethermine.org",
            "ethermine.org.example",
            "pool.ntp.org",
            "huggingface.co",
            "",
        ] {
            assert_eq!(pool(name), None, "{name}");
        }
    }
}
