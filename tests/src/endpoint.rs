//! What a running agent serves over HTTP: metrics and health.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::agent::DEADLINE;

/// Where an agent listens.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address and port.
    pub address: String,
}

impl Endpoint {
    /// The answer to a GET, with its status line and headers.
    pub fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// Likewise, with further headers, each with its end of line.
    pub fn get_with(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the endpoint answers");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: saker\r\n{headers}Connection: close\r\n\r\n"
        )
        .expect("the request is sent");
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .expect("the answer is text");
        text
    }

    /// The value of a metric's first sample whose labels hold this text; `None` while there is none.
    pub fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        self.get("/metrics").lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (found, value) = rest.rsplit_once(' ')?;
            let is_it = found.is_empty() || found.starts_with('{');
            (is_it && found.contains(labels)).then(|| value.parse().ok())?
        })
    }
}

/// Waits until something is so, and fails when it takes too long.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}
