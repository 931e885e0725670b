//! Saker.
fn main() {}
